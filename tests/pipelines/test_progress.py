"""The line of progress: what workers note is added up, finished shards once and for all."""

import re

from pipelines.episode import Unit
from pipelines.progress import FrameLine, Progress, TextLine, TextNote, note_texts


def unit(cost: int, episodes: int = 4) -> Unit:
    return Unit(
        id="a", uri="a", split=None, cost=cost, episodes=episodes, frames=0, version="1.0.0"
    )


def test_frames_are_counted_over_shards_at_work_and_finished(tmp_path):
    out, costs = tmp_path, {("x", 0): 4_000_000, ("x", 1): 4_000_000, ("y", 0): 8_000_000}
    line = FrameLine(str(out), costs)
    assert line(5.0) == ""
    Progress(str(out), "x", 0).step(unit(4_000_000), frames=100, lost=1)
    assert line(10.0) == ("prepare   6%  0/3 shards  10 frames/s  0.1 MB/s  1 lost  2:30 left"), (
        "a quarter of the first unit's episodes"
    )
    Progress(str(out), "x", 1).finish(unit(4_000_000), frames=500, lost=0)
    (out / "_work/receipts").mkdir()
    (out / "_work/receipts/x-00001.json").write_text("{}")
    assert line(10.0) == "prepare  31%  1/3 shards  60 frames/s  0.5 MB/s  1 lost  0:22 left"
    (out / "_work/progress/x-00001.json").unlink()
    assert "1/3 shards  60 frames/s" in line(10.0), "a finished one is not read again"
    for name in ("x-00000", "y-00000"):
        (out / f"_work/receipts/{name}.json").write_text("{}")
    assert "100%  3/3 shards" in line(20.0) and "0:00 left" in line(20.0)


def test_what_is_no_note_of_this_job_does_no_harm(tmp_path):
    line = FrameLine(str(tmp_path), {("x", 0): 10})
    for name, text in {
        "x-00000.json": "[1, 2",
        "x-00007.json": "[9, 9, 9]",
        "x-00001.json": "{}",
    }.items():
        (tmp_path / "_work/progress").mkdir(parents=True, exist_ok=True)
        (tmp_path / "_work/progress" / name).write_text(text)
    assert line(1.0) == ""


def test_remote_tables_keep_no_notes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Progress("gs://b/t", "x", 0).step(unit(10), frames=1, lost=0)
    assert not list(tmp_path.rglob("*"))


def test_texts_are_added_up_over_workers(tmp_path):
    folder = str(tmp_path / "work")
    line = TextLine(folder)
    assert line(1.0) == ""
    note_texts(folder, 300)
    assert "of 300 texts, loading the encoder" in line(1.0)
    for _ in range(2):
        TextNote(folder).add(60)
    assert re.fullmatch(r"embed  40%  +60\.0 texts/s  0:03 left", line(3.0))
    assert TextLine(folder)(1.0) == "", "an earlier run's notes are not this one's"
