"""How `unisim prepare` grows: two workers beside one, and 10 and 100 times the input."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench import clips
from tests.bench.decode import BASE, FINE, FPS, ROUNDS, ratio_of
from tests.bench.plot import draw_scale
from tests.bench.timing import Row, in_turns, progress
from tests.command import ROOT
from tests.memory.measure import Sampler

FEW, MANY = 6, 18  # films, even numbers: each of two workers gets half of them
EPISODES = 5  # of 40 images, at 1x
TIMES = (1, 10, 100)


class Run(NamedTuple):
    """Wall seconds of a run and the peak memory of all its processes, MB."""

    seconds: float
    megabytes: float


def rows(folder: Path, picture: Path | None) -> Iterator[Row]:
    """The rows; the growth is drawn too, if there is a place for it."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield workers_row(folder)
    runs = [_grown(folder, times) for times in TIMES]
    for times, run in zip(TIMES, runs, strict=True):
        name = f"prepare, {times * EPISODES * 40:,} images (wall)"
        growth = run.seconds / runs[0].seconds
        memory = f"{run.megabytes:,.0f} MB"
        yield Row(name, "1x", f"{run.seconds:.1f} s", "", f"{growth:.1f}x", memory)
    if picture:
        images = [times * EPISODES * 40 for times in TIMES]
        draw_scale(picture, images, [r.seconds for r in runs], [r.megabytes for r in runs])


def prepare(out: Path, source: str, *flags: str) -> Run:
    """Runs the command."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "infra.cli", "prepare", "--source", source]
    command += ["--out", str(out), "--tier", str(FINE), "--tier", str(BASE), *flags]
    begin = time.monotonic()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)
    sampler = Sampler(process.pid)
    sampler.start()
    code = process.wait()
    seconds = time.monotonic() - begin
    sampler.done.set()
    sampler.join()
    if code:
        raise RuntimeError(f"{' '.join(command)}: exit {code}")
    return Run(seconds, sampler.total)


def workers_row(folder: Path, few: int = FEW, many: int = MANY, rounds: int = ROUNDS) -> Row:
    """Seconds per film with one worker and with two, by turns: each time from two runs, of few and
    of many films, so that what starting and ending take is in neither. The speed-ups of the slowest
    and the fastest round stand beside the median's."""
    film = clips.film(folder)
    corpora = {n: clips.write_clips(folder / f"films{n}", film, n) for n in (few, many)}
    shard = str(film.stat().st_size / 1e6)  # a film each, so that no worker waits for the other

    def per_film(workers: int) -> float:
        def seconds(count: int) -> float:
            name = "something_something_v2"
            flags = ("--fps", f"{FPS:g}", "--shard-mb", shard, "--workers", str(workers))
            return prepare(folder / "out", f"{name}={corpora[count]}", *flags).seconds

        return (seconds(many) - seconds(few)) / (many - few)

    progress(f"{rounds + 1} times {few} and {many} films with one worker and with two")
    taken = in_turns(rounds, {n: lambda n=n: per_film(n) for n in (1, 2)})
    one, two = (statistics.median(taken[n]) for n in (1, 2))
    ratios = [a / b for a, b in zip(taken[1], taken[2], strict=True)]
    load = f"load {os.getloadavg()[1]:.1f}"
    spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
    name = "prepare, per film, 2 workers (wall)"
    ratio = ratio_of(two, one, 1.7)
    return Row(name, "1 worker", f"{two:.2f} s", f"{one:.2f} s", ratio, load, spread)


def _grown(folder: Path, times: int) -> Run:
    root = folder / f"grown{times}"
    corpus = clips.write_episodes(root, times * EPISODES, per_file=EPISODES)
    progress(f"{times}x: {times * EPISODES} episodes")
    run = prepare(folder / "out", f"bridge={corpus}", "--shard-mb", "32")
    shutil.rmtree(root)
    return run
