"""Measuring in rounds that take turns, also libraries in a Python of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from tests.command import ROOT

Name = TypeVar("Name")


class Row(NamedTuple):
    """One line of the table, as it is printed."""

    name: str
    against: str
    ours: str
    peer: str
    ratio: str
    quality: str = ""
    peer_quality: str = ""


HEADER = Row("", "peer", "ours", "peer's", "ratio", "our PSNR", "peer's")


def line(row: Row) -> str:
    name, against, *numbers = row
    return f"{name:<44}{against:<14}" + "".join(f"{number:>12}" for number in numbers)


def interleaved(rounds: int, sides: dict[Name, Callable[[], float]]) -> dict[Name, float]:
    """Median seconds of each side. They take turns, so that what slows the machine slows all; a
    first round of all is not counted."""
    found: dict[Name, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, seconds in sides.items():
            taken = seconds()
            if i:
                found[name].append(taken)
    return {name: statistics.median(taken) for name, taken in found.items()}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Peer:
    """`tests.bench.peer` in another Python, until the `with` block ends."""

    def __init__(self, python: str):
        self._process = subprocess.Popen(
            [python, "-m", "tests.bench.peer"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_) -> None:
        self._process.communicate()

    def ask(self, **request: object) -> dict:
        """The answer to one request.

        Raises:
            RuntimeError: if the process has ended. It has said why on stderr.
        """
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"the peers' process has ended, asked for {request['library']}")
        return json.loads(answer)
