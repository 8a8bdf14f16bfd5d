"""`gs://` for raw data, encoder and table, against a real server: the same bytes as local ones, and
uploads that break leave nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipelines import sources
from pipelines.text.tiny import write_tiny
from schemas.table import TIMINGS
from tests.command import ROOT, files_of, unisim
from tests.infra import gcs_server
from tests.terminal import Terminal, moves

# TFRecords, videos one by one, tars that are copied first, Parquet with videos in spans
SOURCES = ("bridge", "something_something_v2", "laion", "lerobot")
PATIENCE = 240.0
FLAGS = ("--error-budget", "1", "--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("gcs")


@pytest.fixture(scope="module")
def server(folder):
    with gcs_server.for_test(folder, "in", "out") as server:
        for name in SOURCES:
            server.upload(sources.get(name).fake(folder / name, 0), "in", f"raw/{name}")
        (folder / "t5-little").mkdir()
        write_tiny(folder / "t5-little")
        server.upload(folder / "t5-little", "in", "t5-little")
        (folder / "texts.txt").write_text("open the drawer\nclose it\n")
        server.upload_file(folder / "texts.txt", "in", "texts.txt")
        yield server


def flags(root: str, *names: str) -> list[str]:
    """Those of all sources, one shard each, or of one source in several."""
    sourced = [f for name in names or SOURCES for f in ("--source", f"{name}={root}/{name}")]
    return [*sourced, *FLAGS, "--shard-mb", "0.1" if names else "1"]


@pytest.fixture(scope="module")
def local(folder, server) -> dict[str, bytes]:
    """The same commands on local paths, and what they made."""
    raw, table = folder / "raw", folder / "table"
    raw.mkdir()
    for name in SOURCES:
        path = sources.get(name).fake(folder / "again" / name, 0)
        path.rename(raw / name)
    unisim("prepare", *flags(str(raw)), "--out", table, "--t5", folder / "t5-little")
    unisim("embed", "--data", table, "--texts", folder / "texts.txt", "--t5", folder / "t5-little")
    return settled(files_of(table))


def settled(files: dict[str, bytes]) -> dict[str, bytes]:
    """A table without its plan's path to the raw data, and when they were written; without its
    timings."""
    manifest = json.loads(files["manifest.json"])
    plan = dict.fromkeys(("plan.json", "plan.units.parquet"), b"")
    for name in plan:
        del manifest["files"][name]
    kept = {name: data for name, data in files.items() if name != TIMINGS}
    return kept | plan | {"manifest.json": json.dumps(manifest).encode()}


def test_raw_data_encoder_and_table_on_gs_give_the_same_bytes(server, local):
    out = "gs://out/table"
    unisim("prepare", *flags("gs://in/raw"), "--out", out, "--t5", "gs://in/t5-little")
    unisim("embed", "--data", out, "--texts", "gs://in/texts.txt", "--t5", "gs://in/t5-little")
    found = settled(server.files("out", "table"))
    assert sorted(found) == sorted(local)
    assert [name for name in local if found[name] != local[name]] == []
    assert "0 violations" in unisim("audit", out).stdout
    assert (
        "complete already"
        in unisim(
            "prepare", *flags("gs://in/raw"), "--out", out, "--t5", "gs://in/t5-little"
        ).stdout
    )


@pytest.fixture(scope="module")
def of_bridge(folder, local) -> dict[str, bytes]:
    unisim("prepare", *flags(str(folder / "raw"), "bridge"), "--out", folder / "bridge_table")
    return settled(files_of(folder / "bridge_table"))


def test_progress_of_a_remote_table_is_by_receipts(server, of_bridge):
    """On the local runner, which tells nothing of a running job."""
    seen = threading.Event()

    def waits(name: str) -> str:
        if "bridge-train.array_record-00001" in name:
            seen.wait(PATIENCE)
        return ""

    server.front.breaks = waits
    try:
        with Terminal("prepare", *flags("gs://in/raw", "bridge"), "--out", "gs://out/seen") as job:
            job.wait_for(lambda job: any(line.shards for line in job.progress()), PATIENCE)
            seen.set()
            job.end(PATIENCE)
    finally:
        seen.set()
        server.front.breaks = lambda name: ""
    shards = sum(name.startswith("index.parquet/") for name in of_bridge)
    moves(job.progress(), shards)
    assert any(re.match(r"embed 100% +[\d.]+ texts/s  0:00 left", line) for line in job.lines())
    assert settled(server.files("out", "seen")) == of_bridge


def test_uploads_that_break_are_made_again(server, of_bridge):
    broken: dict[str, str] = {}

    def breaks(name: str) -> str:
        """The first try of every upload."""
        how = "" if name in broken else ("cut", "503")[len(broken) % 2]
        broken.setdefault(name, how)
        return how

    server.front.breaks = breaks
    try:
        unisim("prepare", *flags("gs://in/raw", "bridge"), "--out", "gs://out/broken")
    finally:
        server.front.breaks = lambda name: ""
    assert any("array_record" in name for name in broken)
    assert set(broken.values()) == {"cut", "503"}
    assert settled(server.files("out", "broken")) == of_bridge


def test_killed_in_mid_upload_it_leaves_no_object_and_goes_on(server, of_bridge):
    out = "gs://out/killed"
    command = [sys.executable, "-m", "infra.cli", "prepare", *flags("gs://in/raw", "bridge")]
    last = "bridge-train.array_record-00001"
    server.front.breaks = lambda name: "hang" if last in name else ""
    try:
        process = subprocess.Popen(
            [*command, "--out", out], cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
        )
        assert server.front.hanging.wait(60), "no upload was begun"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        server.front.breaks = lambda name: ""
    left = server.names("out", "killed/")
    assert "killed/_work/receipts/bridge-00000.json" in left
    assert not any(last in name for name in left)
    unisim("audit", out, code=2)
    result = unisim(*command[3:], "--out", out)
    assert "shards are done from before" in result.stderr
    assert settled(server.files("out", "killed")) == of_bridge


def test_a_bucket_that_is_not_there_is_one_line(server, folder, local):
    missing = unisim("prepare", "--source", "bridge=gs://nowhere/x", "--out", folder / "x", code=2)
    assert "gs://nowhere/x: no such path" in missing.stderr
    result = unisim(
        "prepare", *flags(str(folder / "raw"), "bridge"), "--out", "gs://nowhere/table", code=2
    )
    said = "unisim: gs://nowhere/table/plan.units.parquet: cannot be written"
    assert result.stderr.startswith(said)
