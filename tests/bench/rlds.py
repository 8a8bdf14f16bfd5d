"""The rows of `make bench` on robots' episodes: tensorflow-datasets, its Beam writer, LeRobot."""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import beam_tables, clips
from tests.bench.decode import ROUNDS, ratio_of, seconds_of, write_table
from tests.bench.timing import Peer, Row, interleaved, progress, run_alone

EPISODES, STEPS = 50, 40
MANY = 200  # episodes, through Beam, so that starting is not most of it
FEW = 10  # episodes, for LeRobot
KINDS = ("image", "video")


def rows(folder: Path, lerobot: str | None) -> Iterator[Row]:
    """All rows. Without a Python that has lerobot, its row says so."""
    progress(f"{EPISODES} episodes of {STEPS} images of 256x320 as RLDS")
    corpus = clips.write_episodes(folder / "rlds", EPISODES, steps=STEPS)
    with Peer(sys.executable, "peer_rlds") as peer:
        peer.ask(library="describe", folder=str(corpus))
        yield _loop_row(peer, folder, corpus)
    yield from _beam_rows(folder)
    yield _lerobot_row(folder, lerobot)


def _loop_row(peer: Peer, folder: Path, corpus: Path) -> Row:
    out = str(folder / "peer.tfrecord")

    def theirs() -> float:
        answer = peer.ask(library="tfds", folder=str(corpus), out=out)
        assert answer["frames"] == EPISODES * STEPS, answer
        return answer["seconds"]

    taken = interleaved(ROUNDS, {"ours": _table(folder, corpus), "peer": theirs})
    ours, peers = taken["ours"], taken["peer"]
    name = f"{EPISODES * STEPS:,} RLDS images -> a shard of a table"
    return Row(name, "tfds and tf", f"{ours:.2f} s", f"{peers:.2f} s", ratio_of(ours, peers, 1.5))


def _table(folder: Path, corpus: Path) -> Callable[[], float]:
    return lambda: seconds_of(lambda: write_table(folder, corpus, "bridge"))


def _beam_rows(folder: Path) -> Iterator[Row]:
    """Wall seconds of both writers, then what crosses their shuffles."""
    corpus = clips.write_episodes(folder / "many", MANY, steps=STEPS)

    def run(side: Callable[..., Any], counted: str = "") -> dict[str, float]:
        out = folder / "beam"
        shutil.rmtree(out, ignore_errors=True)
        return run_alone(side, corpus, out, counted)

    sides = {"ours": beam_tables.ours, "peer": beam_tables.theirs}
    progress(f"{ROUNDS + 1} times through both Beam writers")
    taken = interleaved(
        ROUNDS, {name: functools.partial(_wall, run, side) for name, side in sides.items()}
    )
    ours, peer = taken["ours"], taken["peer"]
    name = f"{MANY * STEPS:,} through Beam, {beam_tables.WORKERS} workers (wall)"
    yield Row(name, "tfds' Beam", f"{ours:.1f} s", f"{peer:.1f} s", ratio_of(ours, peer, 2))
    found = {name: run(side, "1") for name, side in sides.items()}
    for label, key in (("  bytes shuffled", "bytes"), ("  of which with pixels", "pixels")):
        mine, theirs = found["ours"][key], found["peer"][key]
        yield Row(label, "tfds' Beam", f"{mine:,.0f}", f"{theirs:,.0f}", "")


def _wall(run: Callable[..., dict[str, float]], side: Callable[..., Any]) -> float:
    return run(side)["seconds"]


def _lerobot_row(folder: Path, python: str | None) -> Row:
    name = f"{FEW} episodes of {STEPS} images, episodes/s"
    if not python or not Path(python).exists():
        return Row(name, "lerobot", "", "", "", "make bench")
    corpus = clips.write_episodes(folder / "few", FEW, steps=STEPS)
    jpegs, out = clips.jpegs_of(folder / "jpegs", FEW, STEPS), folder / "lerobot"
    with Peer(python, "peer_lerobot") as peer:
        sides = {"ours": _table(folder, corpus)}
        for kind in KINDS:
            ask = functools.partial(_lerobot, peer, jpegs, out, kind)
            sides[kind] = ask
        taken = interleaved(ROUNDS, sides)
    best = min(KINDS, key=taken.__getitem__)
    ours, theirs = FEW / taken["ours"], FEW / taken[best]
    ratio = ratio_of(taken["ours"], taken[best], 10)
    return Row(name, f"lerobot {best}", f"{ours:.1f}/s", f"{theirs:.2f}/s", ratio)


def _lerobot(peer: Peer, jpegs: Path, out: Path, kind: str) -> float:
    return peer.ask(library="lerobot", folder=str(jpegs), out=str(out), kind=kind)["seconds"]
