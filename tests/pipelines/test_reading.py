"""How far a job is: what workers count, and what the launcher reads of it."""

import json
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics import monitoring_infos
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.portable_runner import PipelineResult

from pipelines import plan, prepare, receipt, sources
from pipelines.episode import Unit
from pipelines.reading import Counters, Reading, Shards, Texts, remaining
from pipelines.receipt import Receipt, SlotStatistics
from pipelines.tally import Counts, Tally
from schemas import Tier

AFAR = "gs://bucket/table"


def unit(cost: int, episodes: int = 4) -> Unit:
    return Unit(
        id="a", uri="a", split=None, cost=cost, episodes=episodes, frames=0, version="1.0.0"
    )


def finished(out: Path, dataset: str, shard: int, *, frames: int) -> None:
    """Leaves a receipt."""
    Receipt(
        dataset=dataset,
        shard=shard,
        files={},
        rows={},
        episodes=1,
        views=1,
        frames=frames,
        dead_letters=[],
        statistics=SlotStatistics(),
        texts=[],
        slots=[],
    ).save(str(out))


def test_what_is_no_note_of_this_job_does_no_harm(tmp_path):
    shards = Shards(str(tmp_path), {("x", 0): 10}, Counters())
    (tmp_path / "_work/progress").mkdir(parents=True)
    for name, text in {
        "x-00000.json": "[1, 2",
        "x-00007.json": "[9, 9, 9, 9, 9]",
        "x-00001.json": "{}",
    }.items():
        (tmp_path / "_work/progress" / name).write_text(text)
    finished(tmp_path, "x", 7, frames=9)
    assert shards.read() == Reading(0, 10)


def test_a_receipt_is_read_once(tmp_path):
    shards = Shards(str(tmp_path), {("x", 0): 10, ("x", 1): 10}, Counters())
    finished(tmp_path, "x", 0, frames=7)
    assert shards.read().counts == Counts(1, 10, 7, 0, 1)
    Path(receipt.path_of(str(tmp_path), "x", 0)).write_text("not read again")
    finished(tmp_path, "x", 1, frames=5)
    assert shards.read().counts == Counts(2, 20, 12, 0, 2)


def test_remote_tables_keep_no_notes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tally = Tally(AFAR, "x", 0)
    tally.step(unit(10), frames=1, dead_letters=0, episodes=1)
    assert not list(tmp_path.rglob("*"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus with losses, and its plan."""
    root = sources.get("bridge").fake(tmp_path_factory.mktemp("raw") / "bridge", 0)
    tiers = [Tier.parse("24x40:raw")]
    return plan.make([("bridge", str(root))], tiers=tiers, fps={}, shard_mb=0.1)


def written(made, out: Path) -> Counters:
    """All shards by Beam; its counters."""
    pipeline = beam.Pipeline("FnApiRunner")
    tasks = list(prepare.tasks(made, str(out)))
    _ = pipeline | beam.Create(tasks) | beam.Map(prepare._write)
    result = pipeline.run()
    result.wait_until_finish()
    counters = Counters()
    counters.follow(result)
    return counters


def test_beams_counters_say_what_receipts_say_and_a_resumed_run_counts_its_own(made, tmp_path):
    plan.save(made, str(tmp_path))
    costs = made.costs()
    assert len(costs) > 2
    counters = written(made, tmp_path)
    here, afar = (Shards(out, costs, counters).read() for out in (str(tmp_path), AFAR))
    assert here == afar and here.done == here.total == sum(costs.values())
    assert here.counts.shards == len(costs) and here.counts.frames and here.counts.dead_letters
    assert counters.read().get("found_shards", (0, 0)) == (0, 0)

    gone = list(costs)[1]
    Path(receipt.path_of(str(tmp_path), *gone)).unlink()
    left, before = remaining(str(tmp_path), costs, str(tmp_path))
    assert list(left) == [gone] and before.shards == len(costs) - 1
    again = Shards(AFAR, left, written(made, tmp_path), before).read()
    assert again.done == again.total == costs[gone]
    assert again.counts == Counts(*(a - b for a, b in zip(here.counts, before, strict=True)))


def _tallied(fails: bool) -> None:
    try:
        with Tally(AFAR, "x", 0) as tally:
            tally.step(unit(10), frames=5, dead_letters=1, episodes=1)
            tally.finish(unit(10), frames=9, dead_letters=1, episodes=2)
            if fails:
                raise InterruptedError
    except InterruptedError:
        pass


def test_what_a_failed_try_has_counted_is_taken_back():
    pipeline = beam.Pipeline("FnApiRunner")
    _ = pipeline | beam.Create([True, False, True]) | beam.Map(_tallied)
    result = pipeline.run()
    result.wait_until_finish()
    counters = Counters()
    counters.follow(result)
    shards = Shards(AFAR, {("x", 0): 10, ("x", 1): 10}, counters)
    assert shards.read().counts == Counts(1, 10, 9, 1, 2)


class Service:
    """A job server's answers, which a runner's own class of results reads."""

    def __init__(self, *answers):
        self._answers = list(answers)

    def GetJobMetrics(self, request):
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(committed: dict[str, int], attempted: dict[str, int]):
    """As a portable runner gives it."""
    response = beam_job_api_pb2.GetJobMetricsResponse()
    for values, target in (
        (committed, response.metrics.committed),
        (attempted, response.metrics.attempted),
    ):
        target.extend(
            monitoring_infos.int64_user_counter("x", name, value, "Write")
            for name, value in values.items()
        )
    return response


def asked(*answers) -> Counters:
    counters = Counters(keep=0)
    counters.follow(PipelineResult(Service(*answers), "job", None, None))
    return counters


COSTS = {("x", shard): 10 for shard in range(4)}


@pytest.mark.parametrize(
    ("committed", "attempted", "shards", "cost"),
    [
        # a bundle is at work
        ({"shards": 1, "cost": 10}, {"shards": 1, "cost": 17}, 1, 17),
        # one has failed after a shard, which the next has found: attempted holds both
        (
            {"shards": 1, "cost": 10, "found_shards": 1, "found_cost": 10},
            {"shards": 2, "cost": 20, "found_shards": 1, "found_cost": 10},
            2,
            20,
        ),
        # the same on a runner that forgets what the failed one has counted
        (
            {"shards": 1, "cost": 10, "found_shards": 1, "found_cost": 10},
            {"shards": 1, "cost": 10, "found_shards": 1, "found_cost": 10},
            2,
            20,
        ),
        # several have failed in mid-shard: never more than there is
        ({"shards": 3, "cost": 30}, {"shards": 3, "cost": 99}, 3, 40),
    ],
)
def test_retried_bundles_count_a_shard_once(committed, attempted, shards, cost):
    reading = Shards(AFAR, COSTS, asked(answer(committed, attempted))).read()
    assert (reading.counts.shards, reading.done, reading.total) == (shards, cost, 40)


def test_what_was_found_from_before_is_no_progress():
    found = {"shards": 1, "cost": 10, "found_shards": 5, "found_cost": 50}
    before = Counts(5, 50)
    reading = Shards(AFAR, COSTS, asked(answer(found, found)), before).read()
    assert (reading.counts.shards, reading.done) == (1, 10)


def test_every_reading_asks_again():
    answers = [answer({}, {"cost": cost}) for cost in (5, 15)]
    shards = Shards(AFAR, COSTS, asked(*answers))
    assert [shards.read().done, shards.read().done] == [5, 15]


def test_all_who_read_at_a_time_ask_once():
    counters = Counters(keep=3600)
    service = Service(answer({}, {"cost": 5, "texts": 3}))  # it has no second answer
    counters.follow(PipelineResult(service, "job", None, None))
    assert Shards(AFAR, COSTS, counters).read().done == 5
    assert Texts(AFAR, counters).read() == Reading(0, 3)


def test_a_runner_that_does_not_answer_is_said_and_no_error(capsys):
    counters = asked(*[OSError("connection\nrefused")] * 7, answer({}, {"cost": 5}))
    assert [counters.read() for _ in range(7)] == [{}] * 7
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[0] for line in lines] == [
        "unisim: the runner does not tell its metrics"
    ] * 2, "the third and the seventh"
    assert "(OSError: connection refused); the job goes on" in lines[0]
    assert counters.read() == {"cost": (0, 5)}


def test_texts_come_from_counters_where_there_are_no_notes():
    counters = asked(answer({"texts": 300}, {"texts": 300, "embedded": 120}))
    assert Texts(f"{AFAR}/_work/embed/t5", counters).read() == Reading(120, 300)


def test_receipts_hold_what_is_read_of_them(made, tmp_path):
    """The reader takes some of a receipt's fields by their names."""
    plan.save(made, str(tmp_path))
    task = next(prepare.tasks(made, str(tmp_path)))
    saved = prepare._write(task)
    value = json.loads(Path(receipt.path_of(str(tmp_path), "bridge", 0)).read_text())
    assert (value["frames"], value["episodes"]) == (saved.frames, saved.episodes)
