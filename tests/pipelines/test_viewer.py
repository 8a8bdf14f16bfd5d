"""The auditor's viewer: in a real Chromium, and against who should not use it."""

import http.client
import json
import multiprocessing
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.audit import Opened
from pipelines.audit.viewer import Catalog, Verdicts, listen
from pipelines.audit.viewer.catalog import Query
from schemas import UsageError, text_key
from schemas.verdicts import VERDICT_SCHEMA
from tests.browser import chromium
from tests.command import ROOT, files_of, unisim
from tests.pipelines.planted import Draft

EVIL = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
NONE = VERDICT_SCHEMA.empty_table()


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    draft = Draft()
    draft.edit("photos", 10, 0, text=EVIL, text_key=text_key(EVIL))
    return draft.write(tmp_path_factory.mktemp("viewer") / "table")


@pytest.fixture(scope="module")
def findings(table, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("findings") / "findings.parquet"
    unisim("audit", table, "--parquet", path)
    return path


@pytest.fixture
def served(table, findings, tmp_path):
    """The address of the real command's server, and its verdicts."""
    verdicts = tmp_path / "verdicts.sqlite"
    flags = ["--serve", "--port", "0", "--findings", str(findings), "--verdicts", str(verdicts)]
    command = [sys.executable, "-m", "infra.cli", "audit", str(table), *flags]
    before = files_of(table)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        yield found[0], verdicts
        process.terminate()
        process.wait(10)
        drain.join(10)
    assert files_of(table) == before


def test_search_play_judge_and_export(served, tmp_path):
    address, verdicts = served
    errors = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 1100})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#results a")
        assert page.inner_text("#count") == "1–25 of 126"
        page.click("#on")
        page.wait_for_function("document.getElementById('count').innerText.startsWith('26–50')")
        page.fill("#text", "lift BLOCK arm-02")
        page.wait_for_function("document.getElementById('count').innerText == '1–1 of 1'")
        page.click("#results a")
        page.wait_for_selector("#key")
        assert page.inner_text("#key") == "arm/arm-02/0"
        assert page.inner_text("#action") == "lift the block"
        page.wait_for_function("document.getElementById('film').currentTime > 0.3")
        assert page.locator(".js-plotly-plot").count() == 2
        strip = page.locator(".strip").first
        assert strip.evaluate("e => e.complete && e.naturalWidth") > 1000
        assert "fake" in page.inner_text("#passport")
        page.click("#episode a >> nth=1")
        page.wait_for_function("document.getElementById('key').innerText == 'arm/arm-02/1'")
        page.get_by_label("reject").check()
        page.fill("#reason", "the arm is hidden")
        page.click("#save")
        page.wait_for_function("document.getElementById('said').innerText == 'saved: reject'")
        page.reload()
        page.wait_for_selector("#key")
        assert "reject (the arm is hidden)" in page.inner_text("#said")
        with page.expect_download() as download:
            page.click("#export")
        download.value.save_as(tmp_path / "verdicts.parquet")
        for width in (400, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            fits = f"document.documentElement.scrollWidth <= {width}"
            page.wait_for_function(fits, timeout=5000)  # plots follow a little later
    assert errors == []
    row = {"dataset": "arm", "episode_id": "arm-02", "step": 1}
    wanted = [row | {"verdict": "reject", "reason": "the arm is hidden"}]
    assert pq.read_table(tmp_path / "verdicts.parquet").to_pylist() == wanted
    unisim("audit", "--verdicts", verdicts, "--export", tmp_path / "again.parquet")
    assert pq.read_table(tmp_path / "again.parquet").to_pylist() == wanted


def test_a_script_in_a_text_stays_text(served):
    address, _ = served
    with chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#results a")
        page.fill("#text", "onerror")
        page.wait_for_function("document.getElementById('count').innerText == '1–1 of 1'")
        page.click("#results a")
        page.wait_for_selector("#key")
        assert page.inner_text("#action") == EVIL
        assert "text-tagged" in page.inner_text("#flags")
        page.wait_for_timeout(500)
        assert page.title() == "unisim audit"


def test_the_report_in_a_browser(table, tmp_path):
    """Both schemes, narrow and wide; nothing is loaded from elsewhere, and no script runs."""
    path = tmp_path / "report.html"
    unisim("audit", table, "--report", path, "--strict", code=1)
    wanted = []
    with chromium() as browser:
        schemes: tuple[tuple[int, Literal["light", "dark"]], ...]
        schemes = ((400, "light"), (1600, "dark"))
        for width, scheme in schemes:
            page = browser.new_page(viewport={"width": width, "height": 1000}, color_scheme=scheme)
            page.on("request", lambda request: wanted.append(urlsplit(request.url).scheme))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") == width
            assert EVIL in page.inner_text("body") and page.title() == f"Audit of {table}"
            broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
            assert page.evaluate(broken) == 0 and page.locator("img").count() > 10
            assert page.locator("svg rect").count() > 30
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert dark == ("rgb(13, 17, 23)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert set(wanted) <= {"file", "data"}


def test_texts_in_pieces(bridge_table, tmp_path):
    server, address = listen(
        Opened(str(bridge_table)), host="127.0.0.1", port=0, verdicts=tmp_path / "v.sqlite"
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with chromium() as browser:
            page, pieces = browser.new_page(), []
            for _ in range(60):
                page.goto(f"{address}?record=0")
                page.wait_for_selector("#key")
                page.wait_for_timeout(500)
                pieces = page.locator("#pieces code").all_inner_texts()
                if pieces:
                    break
            text = page.inner_text("#action")
            assert "".join(pieces) == "▁" + text.replace(" ", "▁") + "</s>"
            assert f"{len(pieces)} tokens by tiny-random" in page.inner_text("#record")
    finally:
        server.shutdown()
        server.server_close()


def ask(address: str, path: str, method: str = "GET", body: str = "", **headers: str):
    where = urlsplit(address)
    assert where.hostname and where.port
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


@pytest.mark.parametrize(
    "path",
    [
        "/media/../manifest.json",
        "/media/%2e%2e/manifest.json.png",
        "/media/0/..%2f..%2fmanifest.json.png",
        "/media/0/24x40%00.png",
        "/media/0//etc/passwd.png",
        "/media/-1.webm",
        "/media/999999.webm",
        "/media/99999999999999999999999999.webm",
        "/media/0/99x99.png",
        "/verdicts.sqlite",
        "/assets/../../etc/passwd",
    ],
)
def test_paths_lead_nowhere_else(served, path):
    address, _ = served
    answer, data = ask(address, path)
    assert answer.status in (200, 308, 400, 404)  # 200 is the page itself
    assert b"schema_version" not in data and b"root:" not in data


def test_other_sites_cannot_use_it(served):
    address, verdicts = served
    assert ask(address, "/", Host="evil.example")[0].status == 403
    assert ask(address, "/", Origin="http://evil.example")[0].status == 403
    body = json.dumps({"output": "said.children", "inputs": []})
    blind = {"Origin": "http://evil.example", "Content-Type": "application/json"}
    assert ask(address, "/_dash-update-component", "POST", body, **blind)[0].status == 403
    answer, _ = ask(address, "/")
    assert answer.status == 200 and "frame-ancestors 'none'" in str(
        answer.getheader("Content-Security-Policy")
    )
    assert len(Verdicts(verdicts).table()) == 0


def test_another_address_demands_a_token(table, tmp_path):
    opened = Opened(str(table))
    server, address = listen(opened, host="0.0.0.0", port=0, verdicts=tmp_path / "v.sqlite")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        token = urlsplit(address).query.removeprefix("token=")
        assert len(token) > 20
        here = f"http://127.0.0.1:{server.server_port}"
        assert ask(here, "/")[0].status == 403
        assert ask(here, "/?token=wrong")[0].status == 403
        assert ask(here, "/media/0.webm")[0].status == 403
        answer, _ = ask(here, f"/?token={token}")
        cookie = str(answer.getheader("Set-Cookie"))
        assert answer.status == 302 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
        assert ask(here, "/", Cookie=cookie.split(";")[0])[0].status == 200
    finally:
        server.shutdown()
        server.server_close()


def _judge(path: Path, who: int) -> None:
    verdicts = Verdicts(path)
    for i in range(50):
        row = {"dataset": "arm", "episode_id": f"{i}", "step": 0}
        verdicts.say(row, "reject" if who else "accept", f"auditor {who}")


def test_two_auditors_at_once(tmp_path):
    path = tmp_path / "verdicts.sqlite"
    context = multiprocessing.get_context("spawn")
    auditors = [context.Process(target=_judge, args=(path, who)) for who in range(2)]
    for auditor in auditors:
        auditor.start()
    for auditor in auditors:
        auditor.join(60)
    assert [auditor.exitcode for auditor in auditors] == [0, 0]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM verdicts").fetchall() == [(100,)]
    assert len(Verdicts(path).table()) == 50


def test_queries(table, findings):
    catalog = Catalog(Opened(str(table)), str(findings))

    def count(verdicts: pa.Table = NONE, **query) -> int:
        return catalog.search(Query(**query), verdicts)[0]

    assert count() == 126
    assert count(source="drone") == 12 and count(source="drone", split="test") == 2
    assert count(text="BLOCK left") == 13 and count(text="%") == 0 and count(text="'") == 1
    assert count(licence="CC0-1.0") == 126 and count(licence="MIT") == 0
    assert count(frames=(16, 16)) == 36 and count(frames=(1, 1)) == 60
    assert count(flag="text-tagged") == 1 and count(flag="frames-black") == 0
    row = {"dataset": "arm", "episode_id": "arm-00", "step": 0, "verdict": "reject", "reason": ""}
    said = pa.Table.from_pylist([row], VERDICT_SCHEMA)
    assert count(said, verdict="reject") == 1 and count(said, verdict="none") == 125
    total, rows = catalog.search(Query(source="arm"), NONE, 25, 25)
    assert total == 54 and len(rows) == 25 and rows[0]["id"] == 25


def test_what_cannot_be_served(table, tmp_path):
    opened = Opened(str(table))
    with pytest.raises(UsageError, match="within the table"):
        listen(opened, host="127.0.0.1", port=0, verdicts=table / "v.sqlite")
    (tmp_path / "v.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UsageError, match="cannot be kept there"):
        Verdicts(tmp_path / "v.sqlite")
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"--findings .* cannot be read"):
        Catalog(opened, str(tmp_path / "f.parquet"))
    broken = shutil.copytree(table, tmp_path / "broken")
    min((broken / "index.parquet").iterdir()).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"index.parquet.* cannot be read"):
        Catalog(Opened(str(broken)))
