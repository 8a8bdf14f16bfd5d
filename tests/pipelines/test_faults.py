"""What a run survives; each ends with the bytes of one that nothing disturbed."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import files, plan, prepare, receipt, sources
from pipelines.write import write_shard
from schemas import Tier
from tests.command import ROOT, files_of, unisim
from tests.pipelines.test_change import without_stamps
from tests.pipelines.test_embed_killed import workers_of

NAMES = ("bridge", "something_something_v2")
FLAGS = ["--error-budget", "1", "--shard-mb", "0.02", "--tier", "24x40:raw"]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("corpora")
    return {name: sources.get(name).fake(root / name, 0, traps=False) for name in NAMES}


def flags(corpora: dict[str, Path], prefix: str = "") -> list[str]:
    given = [f for name, path in corpora.items() for f in ("--source", f"{name}={prefix}{path}")]
    return [*given, *FLAGS]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, corpora) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("straight") / "table"
    unisim("prepare", *flags(corpora), "--out", out, "--workers", 1)
    return files_of(out)


def start(arguments: list[str], out: Path, workers: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "infra.cli", "prepare", *arguments, "--out", out]
    return subprocess.Popen(
        [*map(str, command), "--workers", str(workers)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_at_five_moments_it_ends_with_the_same_bytes(tmp_path, corpora, straight):
    """Moments are drawn by how many files there are, since no two machines are equally fast."""
    out, draw = tmp_path / "table", random.Random(6)
    for count in sorted(draw.sample(range(2, len(straight) - 4), 5)):
        process = start(flags(corpora), out, 1)
        wait_for(process, lambda count=count: len(list(out.rglob("*.*"))) >= count)
        time.sleep(draw.uniform(0, 0.1))
        # with its worker, or the worker is left to find out for itself
        (os.killpg if draw.random() < 0.5 else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (out / "manifest.json").exists(), "it had ended before it was killed"
    unisim("prepare", *flags(corpora), "--out", out, "--workers", 1)
    assert files_of(out) == straight


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)


def test_a_worker_killed_in_mid_shard_changes_no_byte(tmp_path, corpora, straight):
    out = tmp_path / "table"
    process = start(flags(corpora), out, 2)
    wait_for(process, lambda: list(out.glob("frames-24x40/*/*/.tmp-*")))
    os.kill(workers_of(process)[0], signal.SIGKILL)  # pyright: ignore[reportArgumentType]
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    assert "a worker process died; going on with what is left" in said
    assert files_of(out) == straight


def test_a_flaky_file_system_changes_no_byte(tmp_path, corpora, straight, monkeypatch):
    """One call in ten fails, of raw data and of the table, in the launcher and in its worker."""
    (tmp_path / "sitecustomize.py").write_text("import tests.pipelines.flaky\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("FLAKY_LOG", str(tmp_path / "log"))
    out = tmp_path / "table"
    unisim("prepare", *flags(corpora, "flaky://"), "--out", f"flaky://{out}", "--workers", 1)
    faults = Counter((tmp_path / "log").read_text().split())
    assert len(faults) == 2 and faults.total() > 15, "in two processes"
    found = files_of(out)
    assert sorted(found) == sorted(straight)
    # these name the path of the raw data
    different = [name for name in found if found[name] != straight[name]]
    assert different == ["manifest.json", "plan.json", "plan.units.parquet"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here; test_files_steady.py limits files instead")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_nothing_half_written(small_disk, corpora, straight):
    assert sum(map(len, straight.values())) > 600_000
    out = small_disk / "table"
    process = start(flags(corpora), out, 1)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    *progress, last = said.splitlines()
    assert re.fullmatch(f"unisim: {out}/.*: No space left on device; make room there .*", last)
    assert all(line.startswith(("prepare ", "starting ", "unisim: embedding")) for line in progress)
    there = files_of(out)
    assert not [name for name in there if "/.tmp-" in name]
    done = {name: data for name, data in there.items() if not name.startswith("_work/")}
    assert len(done) > 2 and all(straight[name] == data for name, data in done.items())
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    unisim("prepare", *flags(corpora), "--out", out, "--workers", 1)
    assert files_of(out) == straight


def planned(corpora: dict[str, Path], out: Path) -> list:
    """The tasks of a table that was planned."""
    made = plan.make(
        [(name, str(path)) for name, path in corpora.items()],
        tiers=[Tier.parse("24x40:raw")],
        fps={},
        shard_mb=0.02,
    )
    plan.save(made, str(out))
    return list(prepare.tasks(plan.Plan.load(str(out)), str(out)))


def _at_once(task, barrier, results) -> None:
    barrier.wait()
    results.put(write_shard(task))


def test_a_shard_written_twice_at_once_is_written_once(tmp_path, corpora, straight):
    """As runners do that start a slow work item a second time."""
    tasks = planned(corpora, tmp_path)
    spawn = multiprocessing.get_context("spawn")
    for task in (tasks[0], tasks[-1]):
        barrier, results = spawn.Barrier(3), spawn.Queue()
        twins = [spawn.Process(target=_at_once, args=(task, barrier, results)) for _ in range(3)]
        for twin in twins:
            twin.start()
        receipts = [results.get(timeout=60) for _ in twins]
        for twin in twins:
            twin.join()
        assert [twin.exitcode for twin in twins] == [0, 0, 0]
        assert receipts[0] == receipts[1] == receipts[2]
        for name in receipts[0].files:
            assert (tmp_path / name).read_bytes() == straight[name]
        assert receipt.load(str(tmp_path), task.dataset.name, task.shard.index) == receipts[0]
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".tmp-")]


@pytest.fixture
def copies(tmp_path, corpora) -> dict[str, Path]:
    return {
        name: Path(shutil.copytree(path, tmp_path / "raw" / name)) for name, path in corpora.items()
    }


def letters_of(task) -> list[tuple[str, str, int]]:
    """(stage, reason, episodes) of what is lost of a shard."""
    return [(x["stage"], x["reason"], x["episodes"]) for x in write_shard(task).dead_letters]


def test_a_file_that_changed_since_the_plan_costs_its_unit(tmp_path, copies):
    tasks = [t for t in planned(copies, tmp_path / "table") if t.dataset.name == "bridge"]
    assert len(tasks) > 1
    changed, kept = tasks[0], tasks[-1]
    uri = copies["bridge"] / changed.shard.units[0].uri
    os.utime(uri, (1, 1))
    mine = [unit for unit in changed.shard.units if unit.uri == changed.shard.units[0].uri]
    said = f"{uri.name} has changed since planned (written again, with the same size)"
    assert letters_of(changed) == [("read", said, unit.episodes) for unit in mine]
    assert kept.shard.units[0].uri != changed.shard.units[0].uri and letters_of(kept) == []


def test_what_changed_after_the_plan_is_read_again_once_it_is_as_it_was(tmp_path, copies, straight):
    """One file is longer when its shard is made, one was only written again: two dead letters, and
    then the same table."""
    out = tmp_path / "table"
    task = next(t for t in planned(copies, out) if t.dataset.name == "bridge")
    longer = copies["bridge"] / task.shard.units[0].uri
    clip = min(copies["something_something_v2"].rglob("*.webm"))
    data, before = longer.read_bytes(), longer.stat()
    longer.write_bytes(data + b"more")
    write_shard(task)
    longer.write_bytes(data)
    os.utime(longer, ns=(before.st_atime_ns, before.st_mtime_ns))
    clip.write_bytes(clip.read_bytes())
    unisim("prepare", *flags(copies), "--out", out, "--workers", 1)
    letters = pq.read_table(out / "dead_letters.parquet").to_pylist()
    size = f"size {len(data)} then, {len(data) + 4} now"
    assert {(x["stage"], x["reason"]) for x in letters} == {
        ("read", f"{longer.name} has changed since planned ({size})"),
        ("read", f"{clip.name} has changed since planned (written after the plan)"),
    }
    again = ["--replay-dead-letters", "--error-budget", 0, "--workers", 1]
    unisim("prepare", "--out", out, *again)
    assert without_stamps(files_of(out)) == without_stamps(straight)


def test_a_file_in_a_folder_that_changed_costs_its_episode(tmp_path, copies):
    name = "something_something_v2"
    tasks = [t for t in planned(copies, tmp_path / "table") if t.dataset.name == name]
    clip = tasks[0].shard.units[0].params["clips"][0]["file"]
    time.sleep(0.01)
    path = copies[name] / clip
    path.write_bytes(path.read_bytes())
    said = f"{path.name} has changed since planned (written after the plan)"
    assert letters_of(tasks[0]) == [("read", said, 1)]


def test_a_file_that_changes_while_it_is_read_is_not_mixed_in(tmp_path, copies, monkeypatch):
    """The shard is written anew, and then without it."""
    task = next(t for t in planned(copies, tmp_path / "table") if t.dataset.name == "bridge")
    source = sources.get("bridge")
    read = source.episodes

    def episodes(unit):
        for number, episode in enumerate(read(unit)):
            yield episode
            if number == 0:
                os.utime(unit.uri, (1, 1))

    monkeypatch.setattr(source, "episodes", episodes)
    made = write_shard(task)
    assert {letter["unit"] for letter in made.dead_letters} == {u.id for u in task.shard.units}
    assert made.episodes == made.frames == 0
    index = next(name for name in made.files if name.startswith("index"))
    assert pq.read_table(tmp_path / "table" / index).num_rows == 0
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".tmp-")]


def test_a_plan_keeps_its_stamps_until_its_corpus_moves(tmp_path, copies):
    out = tmp_path / "table"
    first = planned(copies, out)[0].shard.units[0]
    assert first.stamp == str(files.stamp(str(copies["bridge"] / first.uri)))
    os.utime(copies["bridge"] / first.uri, (1, 1))
    assert planned(copies, out)[0].shard.units[0] == first, "the change is to be noticed"
    moved = {name: path.rename(tmp_path / name) for name, path in copies.items()}
    tasks = planned(moved, out)
    assert tasks[0].shard.units[0].stamp.endswith("@1000000000")
    assert letters_of(tasks[0]) == []
    moved = {name: path.rename(tmp_path / f"{name}-2") for name, path in moved.items()}
    with_receipt = planned(moved, out)
    assert with_receipt[0].dataset.root == tasks[0].dataset.root, "a shard of it is finished"
