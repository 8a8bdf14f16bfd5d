"""Measuring in rounds that take turns, also libraries in a Python of their own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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


HEADER = Row("", "peer", "ours", "peer's", "ratio", "quality", "peer's")


def line(row: Row) -> str:
    name, against, *numbers = row
    return f"{name:<44}{against:<14}" + "".join(f"{number:>12}" for number in numbers)


def interleaved(rounds: int, sides: dict[Name, Callable[[], float]]) -> dict[Name, float]:
    """Median seconds of each side, of those of `in_turns`."""
    found = in_turns(rounds, sides)
    return {name: statistics.median(taken) for name, taken in found.items()}


def in_turns(rounds: int, sides: dict[Name, Callable[[], float]]) -> dict[Name, list[float]]:
    """Each side's seconds, round by round. They take turns, so that what slows the machine slows
    all; a first round of all is not counted."""
    found: dict[Name, list[float]] = {name: [] for name in sides}
    for i in range(rounds + 1):
        for name, seconds in sides.items():
            taken = seconds()
            if i:
                found[name].append(taken)
    return found


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_alone(function: Callable[..., Any], *args: object) -> Any:
    """What a function of this package gives in a process that has done nothing else.

    Args:
        function: by its name; takes strings, gives what JSON can hold.
    """
    name = function.__name__
    code = (
        f"import json, sys; from {function.__module__} import {name};"
        f"print(json.dumps({name}(*sys.argv[1:])))"
    )
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def status_mb(field: str) -> float:
    """A size of this process in MB. Not `ru_maxrss`, which begins with that of the parent."""
    for text in Path("/proc/self/status").read_text().splitlines():
        if text.startswith(f"{field}:"):
            return int(text.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {field} in /proc/self/status")


class Peer:
    """A module of this folder in another Python, until the `with` block ends."""

    def __init__(self, python: str, module: str):
        self._process = subprocess.Popen(
            [python, "-m", f"tests.bench.{module}"],
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
