"""A finished table on `gs://` grows, is mended and forgets: the bytes of a local one, also where
putting a change in its place is cut short. There a move is a copy and then a deletion."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import change, files, plan, sources
from pipelines.job import load_manifest
from schemas import Tier, UsageError
from schemas.table import TIMINGS
from tests.command import ROOT, files_of, unisim
from tests.infra import gcs_server
from tests.pipelines.test_change import mend, spoil

NAMES = ("bridge", "something_something_v2")
FLAGS = ("--error-budget", "1", "--shard-mb", "0.02", "--tier", "24x40:raw", "--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gcs")
    (folder / "raw").mkdir()
    for name in NAMES:
        made = sources.get(name).fake(folder / "fakes" / name, 0, traps=False)
        made.rename(folder / "raw" / name)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with gcs_server.for_test(folder, "in", "out") as server:
        server.upload(folder / "raw", "in", "raw")
        yield server


def given(root: object, *names: str) -> list[str]:
    return [x for name in names for x in ("--source", f"{name}={root}/{name}")]


def settled(found: dict[str, bytes]) -> dict[str, bytes]:
    """A table without its plan's path to the raw data and when that was written, and so without
    the digests of that and of earlier manifests; without its timings."""
    manifest = json.loads(found["manifest.json"])
    plan = dict.fromkeys(("plan.json", "plan.units.parquet"), b"")
    for name in plan:
        del manifest["files"][name]
    for rule in manifest["forgotten"]:
        del rule["before"]
    kept = {name: data for name, data in found.items() if name != TIMINGS}
    return kept | plan | {"manifest.json": json.dumps(manifest).encode()}


def same(server, name: str, local: Path, tidied: bool = True) -> None:
    """The table gs://out/NAME has the local one's files; and no others, where its command came to
    its end."""
    found, wanted = settled(server.files("out", name)), settled(files_of(local))
    assert sorted(found) == sorted(wanted) or not (tidied or wanted.keys() - found.keys())
    assert [path for path in wanted if found[path] != wanted[path]] == []
    assert "0 violations" in unisim("audit", f"gs://out/{name}").stdout


@pytest.fixture(scope="module")
def one(folder, server) -> dict[str, bytes]:
    """A table of the first source at gs://out/one, whose objects these are."""
    unisim("prepare", *given("gs://in/raw", NAMES[0]), "--out", "gs://out/one", *FLAGS)
    return server.files("out", "one")


@pytest.fixture(scope="module")
def both(folder) -> Path:
    """A local table of both sources."""
    unisim("prepare", *given(folder / "raw", *NAMES), "--out", folder / "both", *FLAGS)
    return folder / "both"


def restored(server, name: str, objects: dict[str, bytes]) -> str:
    for path, data in objects.items():
        server.put("out", f"{name}/{path}", data)
    return f"gs://out/{name}"


def test_another_source_is_added_and_forgotten_again(folder, server, one, both):
    out = restored(server, "grown", one)
    unisim("prepare", *given("gs://in/raw", NAMES[1]), "--out", out, *FLAGS)
    same(server, "grown", both)
    said = unisim("prepare", *given("gs://in/raw", *NAMES), "--out", out, *FLAGS).stdout
    assert "it was complete already" in said
    index = pq.read_table(both / "index.parquet").to_pylist()
    of_file = ["--uri", next(row["source_uri"] for row in index if row["dataset"] == NAMES[0])]
    local = folder / "forgotten"
    subprocess.run(["cp", "-r", both, local], check=True)
    for rule in (of_file, ["--source", NAMES[1]]):
        for table in (out, local):
            unisim("forget", "--data", table, *rule, "--workers", 1)
        same(server, "grown", local)


def test_what_was_lost_is_read_again_once_it_is_mended(folder, server, both):
    raw = {name: folder / "mended" / name for name in NAMES}
    subprocess.run(["cp", "-r", folder / "raw", folder / "mended"], check=True)
    whole = spoil(raw, 64)
    tables = {folder / "mended": folder / "replayed", "gs://in/mended": "gs://out/replayed"}
    server.upload(folder / "mended", "in", "mended")
    for root, out in tables.items():
        unisim("prepare", *given(root, *NAMES), "--out", out, *FLAGS)
        assert sum(d.dead_letters for d in load_manifest(str(out)).datasets) > 1
    mend(whole)
    for path in whole:
        server.upload_file(path, "in", str(path.relative_to(folder)))
    for out in tables.values():
        unisim("prepare", "--out", out, "--replay-dead-letters", *FLAGS[:2], *FLAGS[-2:])
        assert sum(d.dead_letters for d in load_manifest(str(out)).datasets) == 0
    same(server, "replayed", folder / "replayed")
    same(server, "replayed", both)


GROW = ("prepare", *given("gs://in/raw", NAMES[1]), *FLAGS)


@contextlib.contextmanager
def moves(server, broken):
    """While it lasts, steps of moves are broken."""
    server.front.moves = broken
    try:
        yield
    finally:
        server.front.moves = lambda step, name: ""


def kill_at(server, out: str, number: int) -> None:
    """Grows a table, and kills the driver with its worker when so many steps of moves of new files
    were passed on; no other one is."""
    counter = itertools.count()
    hanging = server.front.hanging
    hanging.clear()

    def broken(step: str, name: str) -> str:
        # what the table had already may have the same bytes again
        if "/_work/next/" not in name or NAMES[1] not in name:
            return ""
        return "hang" if next(counter) >= number else ""

    with moves(server, broken):
        command = [sys.executable, "-m", "infra.cli", *GROW, "--out", out]
        process = subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
        )
        assert hanging.wait(240), "no file was moved"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def decided(server, one) -> dict[str, bytes]:
    """What a driver left that was killed when the first file was to be moved."""
    out = restored(server, "decided", one)
    kill_at(server, out, 0)
    return server.files("out", "decided")


def names(server, prefix: str) -> set[str]:
    """The objects of a table, which may be on their way."""
    return {name.removeprefix(f"{prefix}/") for name in server.names("out", f"{prefix}/")}


def test_killed_while_files_move_the_next_call_goes_on(server, decided, both):
    staged = [name for name in decided if name.startswith("_work/next/")]
    assert "manifest.json" not in decided and "_work/next/manifest.json" in staged
    steps = 2 * sum(NAMES[1] in name for name in staged)
    for number in (1, steps // 2, steps - 1):
        out = restored(server, f"killed{number}", decided)
        kill_at(server, out, number)
        deadline = time.monotonic() + 60
        while (left := names(server, f"killed{number}")) == decided.keys():
            assert time.monotonic() < deadline, "what was passed on is done"
            time.sleep(0.1)
        assert "manifest.json" not in left and "_work/next/manifest.json" in left
        said = unisim("audit", out, code=2).stderr
        assert "a change of it was cut short; run the same command again" in said
        said = unisim(*GROW, "--out", out).stdout
        assert "it was complete already" in said
        same(server, f"killed{number}", both)


def test_an_answer_that_is_lost_or_refused_for_the_moment_moves_no_file_twice(
    server, decided, both
):
    out = restored(server, "lost", decided)
    seen: dict[tuple[str, str], str] = {}

    def broken(step: str, name: str) -> str:
        """The first try of every step."""
        how = "" if (step, name) in seen else ("lost", "503")[len(seen) % 2]
        seen.setdefault((step, name), how)
        return how

    with moves(server, broken):
        assert change.finish(out)
    assert {(step, how) for (step, _), how in seen.items()} == {
        (step, how) for step in ("copy", "delete") for how in ("lost", "503")
    }
    same(server, "lost", both, tidied=False)
    assert not change.finish(out)


@pytest.mark.parametrize("step", ["copy", "delete"])
def test_a_move_that_is_refused_is_said_and_ended_by_the_next_call(server, decided, both, step):
    out = restored(server, f"refused-{step}", decided)
    with (
        moves(server, lambda now, name: "403" if now == step and "index" in name else ""),
        pytest.raises(UsageError, match=r"cannot be moved .*403"),
    ):
        change.finish(out)
    left = server.names("out", f"refused-{step}/")
    assert f"refused-{step}/manifest.json" not in left
    assert change.finish(out)
    same(server, f"refused-{step}", both, tidied=False)


def test_an_object_that_was_written_again_is_not_read_until_it_is_planned_again(
    server, folder, one
):
    name, root, out = NAMES[0], "gs://in/again", "gs://out/again"
    server.upload(folder / "raw" / name, "in", f"again/{name}")
    source = (name, f"{root}/{name}")
    made = plan.make([source], tiers=[Tier.parse("24x40:raw")], fps={}, shard_mb=0.02)
    plan.save(made, out)
    first = made.datasets[0].shard(0).units[0].uri
    where = files.join(source[1], first).removeprefix("gs://in/")
    server.put("in", where, server.get("in", where))
    unisim("prepare", "--source", "=".join(source), "--out", out, *FLAGS)
    with files.local_copy(files.join(out, "dead_letters.parquet")) as local:
        letters = pq.read_table(local).to_pylist()
    said = f"{files.name_of(first)} has changed since planned (written again, with the same size)"
    assert {(x["source_uri"], x["stage"], x["reason"]) for x in letters} == {(first, "read", said)}
    with files.local_copy(files.join(out, "manifest.json")) as local:
        assert json.loads(Path(local).read_text())["datasets"][0]["episodes"] > 0
    unisim("prepare", "--out", out, "--replay-dead-letters", *FLAGS[-2:])
    assert settled(server.files("out", "again")) == settled(one)
