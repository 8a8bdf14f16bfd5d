"""`MetricsLog`: the loss of every step in a file, and the progress line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from schemas import UsageError

METRICS = "metrics.jsonl"
_PACE = 5.0  # seconds between lines


class MetricsLog:
    """`RUN/metrics.jsonl`: one JSON object per step, in order, without times.

    A resumed run cuts it back to the step it resumes from, so that it ends equal to a straight one.

    Args:
        run: the run's folder.
        step: steps done; later lines are dropped.
        name: of the file.
    """

    def __init__(self, run: Path, step: int, name: str = METRICS):
        self._path = run / name
        kept = [line for line in read_metrics(run, name) if line["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self._path)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends one step's values."""
        with self._path.open("a") as f:
            f.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(run: Path, name: str = METRICS) -> list[dict[str, Any]]:
    """The lines of a run's metrics, none if there is no file.

    A last line that a killed run left half written is dropped.

    Raises:
        UsageError: if another line is not JSON.
    """
    path = run / name
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for i, line in enumerate(lines):
        try:
            found.append(json.loads(line))
        except ValueError as e:
            if i + 1 < len(lines):
                raise UsageError(
                    f"{path}: line {i + 1} is not JSON ({e}); mend or delete the file"
                ) from e
    return found


class Progress:
    """The rate of a run, and a line that says so. The first step, which compiles, is left out.

    Args:
        first: steps done before.
        steps: of the whole run.
        batch_size: samples of a step.
    """

    def __init__(self, *, first: int, steps: int, batch_size: int):
        self._first, self._steps, self._batch_size = first + 1, steps, batch_size
        self._since = time.perf_counter()
        self._last = (self._since, self._first, 0.0)

    def rate(self, step: int) -> float:
        """Steps per second since the first; 0 before the second step."""
        return max(0, step - self._first) / max(time.perf_counter() - self._since, 1e-9)

    def line(self, step: int, loss: float, *, waited: float = 0.0, utilisation: float = 0.0) -> str:
        """A line of what went on since the one before:

        "step 40/200  loss 0.4132  2.1 steps/s  8.4 samples/s  0% data wait  41% MFU  76 s left"

        Args:
            waited: seconds that the run has waited for batches until now.
            utilisation: share of the devices' peak that one step a second would take; 0 if that is
                not known.
        """
        text, now = f"step {step}/{self._steps}  loss {loss:.4f}", time.perf_counter()
        if step == self._first:
            compiled, self._since = now - self._since, now
            self._last = (now, step, waited)
            return f"{text}  (compiled in {span(compiled)})"
        (since, before, already), self._last = self._last, (now, step, waited)
        seconds = max(now - since, 1e-9)
        rate = (step - before) / seconds
        text += f"  {rate:.3g} steps/s  {rate * self._batch_size:.3g} samples/s"
        text += f"  {(waited - already) / seconds:.0%} data wait"
        if utilisation:
            text += f"  {rate * utilisation:.0%} MFU"
        return f"{text}  {span((self._steps - step) / max(rate, 1e-9))} left"


class Paced:
    """Lines about what takes long: one every few seconds, none of what is soon done.

    Args:
        what: "reading the index".
        total: how many there will be.
        unit: what is counted.
        say: takes a line.
    """

    def __init__(self, what: str, total: int, unit: str, say: Callable[[str], None]):
        self._what, self._total, self._unit, self._say = what, total, unit, say
        self._begin = self._said = time.perf_counter()
        self._done = 0

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.perf_counter()
        if now - self._said < _PACE or self._done >= self._total:
            return
        self._said, rate = now, self._done / (now - self._begin)
        left = span((self._total - self._done) / rate)
        text = f"{self._what}: {self._done / self._total:.0%}  {rate:.3g} {self._unit}/s"
        self._say(f"{text}  {left} left")


def span(seconds: float) -> str:
    """ "76 s", "12 min" or "30 h"."""
    minutes = seconds / 60
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"
