"""The lines of progress, and when they are printed."""

import re
import threading

import pytest

from pipelines.progress import Line, Reporter, ShardLine, TextLine
from pipelines.reading import Counters, Reading, Shards, Texts
from pipelines.tally import Counts, Tally, TextTally, note_texts
from tests.pipelines.test_reading import finished, unit


def said(line: Line, seconds: float) -> str:
    line.read(seconds)
    return line.text(seconds)


def step(tally: Tally, *, cost: int, frames: int, dead_letters: int = 0) -> None:
    tally.step(unit(cost), frames=frames, dead_letters=dead_letters, episodes=1)


def test_frames_are_counted_over_shards_at_work_and_finished(tmp_path):
    out, costs = str(tmp_path), {("x", 0): 4_000_000, ("x", 1): 4_000_000, ("y", 0): 8_000_000}
    line = ShardLine("prepare", Shards(out, costs, Counters()), 3)
    assert said(line, 5.0) == ""
    step(Tally(out, "x", 0), cost=4_000_000, frames=100, dead_letters=1)
    assert said(line, 10.0) == (
        "prepare   6%  0/3 shards  10 frames/s  0.1 MB/s  1 dead letters  2:30 left"
    ), "a quarter of the first unit's episodes"
    assert line.text(40.0).endswith("0.1 MB/s  1 dead letters  2:00 left"), "as it was when read"
    finished(tmp_path, "x", 1, frames=500)
    assert said(line, 10.0) == (
        "prepare  31%  1/3 shards  60 frames/s  0.5 MB/s  1 dead letters  0:22 left"
    )
    for name, shard in (("x", 0), ("y", 0)):
        finished(tmp_path, name, shard, frames=100)
    assert "100%  3/3 shards  35 frames/s" in said(line, 20.0)
    assert "100%  3/3 shards  35 frames/s" in said(line, 90.0), "later stages do not slow it down"


def test_texts_are_added_up_over_workers(tmp_path):
    folder = str(tmp_path / "work")
    source = Texts(folder, Counters())
    line = TextLine(source)
    assert said(line, 1.0) == ""
    note_texts(folder, 300)
    assert "of 300 texts, loading the encoder" in said(line, 1.0)
    for _ in range(2):
        TextTally(folder).add(60)
    assert re.fullmatch(r"embed  40%  +60\.0 texts/s  0:03 left", said(line, 3.0))
    source.begin()
    assert source.read() == Reading(0, 0), "an earlier run's notes are not this one's"


class Stage:
    """A source that says what it is given, and lets its reader be waited for."""

    every = 0.001

    def __init__(self, given: Reading | Exception):
        self.given = given
        self.reads = 0
        self.often = threading.Event()

    def begin(self) -> None: ...

    def read(self) -> Reading:
        self.reads += 1
        if self.reads > 40:
            self.often.set()
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def test_a_log_has_a_line_now_and_then_and_the_last_one(capsys):
    stage = Stage(Reading(1, 4, Counts(1, 1, 10)))
    line = ShardLine("prepare", stage, 4)
    with Reporter([line], first=0.001, every=0.001):
        assert stage.often.wait(60)
        stage.given = Reading(4, 4, Counts(4, 4, 40))
    lines = capsys.readouterr().err.splitlines()
    assert any("prepare  25%  1/4 shards" in text for text in lines)
    assert "prepare 100%  4/4 shards" in lines[-1]


def test_what_ends_at_once_says_nothing(capsys):
    with Reporter([ShardLine("prepare", Stage(Reading(4, 4)), 4)]):
        pass
    assert capsys.readouterr().err == ""


def test_what_cannot_be_read_is_said_ever_more_seldom_and_the_job_goes_on(capsys):
    stage, good = Stage(OSError("no route\nto host")), Stage(Reading(2, 4))
    lines = [ShardLine("prepare", stage, 4), TextLine(good)]
    with Reporter(lines, first=0.001, every=0.001):
        assert stage.often.wait(60)
    complaints = [x for x in capsys.readouterr().err.splitlines() if "cannot be read" in x]
    assert "progress cannot be read (OSError: no route to host); the job goes on" in complaints[0]
    assert 3 <= len(complaints) < stage.reads / 4
    assert good.reads >= 40, "another stage's is read all the same"


def test_a_reading_that_never_answers_keeps_nobody(capsys, monkeypatch):
    monkeypatch.setattr("pipelines.progress._PATIENCE", 0.01)
    asked, answer = threading.Event(), threading.Event()

    class Silent(Stage):
        def read(self) -> Reading:
            asked.set()
            answer.wait()
            return self.given  # type: ignore[return-value]

    with Reporter([TextLine(Silent(Reading(0, 0)))], first=0.001, every=0.001):
        assert asked.wait(60)
    answer.set()


def test_a_failed_job_has_no_last_line(capsys):
    stage = Stage(Reading(1, 4, Counts(1, 1, 10)))
    with (
        pytest.raises(ZeroDivisionError),
        Reporter([ShardLine("prepare", stage, 4)], first=0.001, every=3600.0),
    ):
        assert stage.often.wait(60)
        stage.given = Reading(3, 4, Counts(3, 3, 30))
        raise ZeroDivisionError
    assert "3/4" not in capsys.readouterr().err.splitlines()[-1]
