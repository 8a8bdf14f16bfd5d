"""From a record back to its raw bytes, from a raw file to its records, and the auditors' SQL."""

import json
import re
import shutil
from pathlib import Path

import av
import cv2
import duckdb
import pyarrow.parquet as pq
import pytest

from pipelines import sources
from tests.command import ROOT, unisim
from tests.samples import sample
from tests.table import read_table

BRIDGE = "bridge/bridge_dataset/1.0.0"
KEY = "bridge/train-00000-000001@image_0/0"


def rows(table: Path, dataset: str | None = None) -> list[dict]:
    found = pq.read_table(table / "index.parquet").to_pylist()
    return [row for row in found if dataset in (None, row["dataset"])]


def key(row: dict) -> str:
    return f"{row['dataset']}/{row['episode_id']}/{row['step']}"


def test_show_in_the_terminal_and_as_pictures(bridge_table, tmp_path):
    png, mp4 = tmp_path / "record.png", tmp_path / "record.mp4"
    out = unisim("show", KEY, "--data", bridge_table, "--png", png, "--mp4", mp4).stdout
    (row,) = (row for row in rows(bridge_table) if key(row) == KEY)
    assert row["text"] in out and row["source_range"] in out and "CC BY 4.0" in out
    (line,) = (line for line in out.splitlines() if line.split()[:1] == ["ee_dx"])
    assert len(line.split()[1]) == row["num_frames"] and line.endswith(" m")
    picture = cv2.imread(str(png))
    assert picture is not None and picture.shape[:2] == (128, row["num_frames"] * 132 - 4)
    with av.open(str(mp4)) as container:
        assert sum(1 for _ in container.decode(video=0)) == row["num_frames"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bridge", "wanted DATASET/EPISODE/STEP, of the datasets bridge"),
        ("fridge/a/0", "wanted DATASET/EPISODE/STEP"),
        ("bridge/nobody/0", "bridge has no episode of that id"),
        (KEY.replace("/0", "/7"), "the episode has the steps 0 to 0"),
        ("bridge/../../etc/passwd/0", "no episode of that id"),
    ],
)
def test_show_what_is_not_there(bridge_table, name, said):
    assert said in unisim("show", name, "--data", bridge_table, code=2).stderr


def test_a_real_record_is_made_again_to_the_byte(bridge_table, tmp_path):
    picture = tmp_path / "both.png"
    out = unisim("why", KEY, "--data", bridge_table, "--verify", "--show", picture).stdout
    assert "1 of 1 records are what the raw data gives, to the byte" in out
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize("name", sources.names())
def test_a_record_of_every_source_is_made_again(fake_table, name):
    row = rows(fake_table, name)[-1]
    out = unisim("why", key(row), "--data", fake_table, "--verify").stdout
    assert "1 of 1 records are what the raw data gives" in out


def test_every_record_of_a_raw_file(fake_table, tmp_path):
    wanted = rows(fake_table, "ego4d")
    uri = wanted[0]["source_uri"]
    wanted = [key(row) for row in rows(fake_table) if row["source_uri"] == uri]
    for name in (uri, f"/somewhere/else/{uri}"):
        out = unisim("why", name, "--data", fake_table, "--json").stdout
        assert [key(json.loads(line)) for line in out.splitlines()] == wanted
    folder = uri.rpartition("/")[0]
    if folder:
        out = unisim("why", folder, "--data", fake_table, "--json").stdout
        assert len(out.splitlines()) >= len(wanted)
    said = unisim("why", "no/such/file", "--data", fake_table, code=2).stderr
    assert "no record was made from such a file" in said


def test_raw_data_that_was_changed_is_noticed(tmp_path):
    """The table is of one episode's frames, the raw file has another's by now."""
    raw = tmp_path / "raw"
    shutil.copytree(sample(BRIDGE), raw)
    unisim("prepare", "--source", f"bridge={raw}", "--out", tmp_path / "table", "--workers", 1)
    index = next((tmp_path / "table/frames-24x40").rglob("*train*"))
    before = index.read_bytes()
    moved = raw.rename(tmp_path / "moved")
    said = unisim("why", KEY, "--data", tmp_path / "table", "--verify", code=3).stdout
    assert "no longer gives episode" in said and "0 of 1 records" in said
    source = ("--source", f"bridge={moved}")
    unisim("why", KEY, "--data", tmp_path / "table", "--verify", *source)
    file = next(moved.glob("*.tfrecord*"))
    data = bytearray(file.read_bytes())
    data[144_660 + 5_000] ^= 255
    file.write_bytes(bytes(data))
    said = unisim("why", KEY, "--data", tmp_path / "table", "--verify", *source, code=3).stdout
    assert KEY in said and "0 of 1 records" in said
    assert index.read_bytes() == before


def queries() -> list[str]:
    """The SQL of the README's section for auditors."""
    text = (ROOT / "README.md").read_text().split("## For auditors")[1].split("\n## ")[0]
    return [q.strip() for block in re.findall(r"```sql\n(.*?)```", text, re.S)
            for q in block.split(";") if q.strip()]  # fmt: skip


def test_the_readme_asks_five_questions(fake_table):
    asked = queries()
    assert len(asked) >= 5
    found = rows(fake_table)
    clipped = sum(n for row in found for _, n in row["clipped_slots"] or ())
    for query in asked:
        sql = query.replace("'table/", f"'{fake_table}/")
        sql = re.sub("source_uri = '[^']*'", f"source_uri = '{found[0]['source_uri']}'", sql)
        answer = duckdb.connect().execute(sql).fetchall()
        assert answer, query
        if "by license" in query.lower() or "license, count" in query.lower():
            assert sum(row[-1] for row in answer) == len(found)
        if "clipped_slots" in query:
            assert sum(row[-1] for row in answer) == clipped > 0
        if "source_uri = " in query:
            assert len(answer) == sum(r["source_uri"] == found[0]["source_uri"] for r in found)


def test_the_tables_records_are_those_of_the_index(fake_table):
    """What the questions are asked of is what the records say."""
    from schemas import Tier

    chunks = read_table(fake_table, Tier(24, 40, "raw"))
    assert [c.key for c in chunks] == [key(row) for row in rows(fake_table)]


def test_help_teaches():
    for verb in ("show", "why", "audit"):
        out = unisim(verb, "--help").stdout
        assert f"usage: unisim {verb}" in out and "examples:" in out
