"""`MetricsLog`: the loss of every step in a file, and the progress line."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from schemas import UsageError

METRICS = "metrics.jsonl"


class MetricsLog:
    """`RUN/metrics.jsonl`: one JSON object per step, in order, without times.

    A resumed run cuts it back to the step it resumes from, so that it ends equal to a straight one.

    Args:
        run: the run's folder.
        step: steps done; later lines are dropped.
    """

    def __init__(self, run: Path, step: int):
        self._path = run / METRICS
        kept = [line for line in read_metrics(run) if line["step"] <= step]
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self._path)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one step's values."""
        with self._path.open("a") as f:
            f.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics, none if there is no file.

    A last line that a killed run left half written is dropped.

    Raises:
        UsageError: if another line is not JSON.
    """
    path = run / METRICS
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
        self._since, self._waited = time.perf_counter(), 0.0

    def waited(self, seconds: float) -> None:
        """Notes that the loop waited so long for a batch."""
        self._waited += seconds

    def rate(self, step: int) -> float:
        """Steps per second; 0 before the second step."""
        return max(0, step - self._first) / max(time.perf_counter() - self._since, 1e-9)

    def line(self, step: int, loss: float) -> str:
        """ "step 40/200  loss 0.4132  2.1 steps/s  8.4 samples/s  0% data wait  76 s left" """
        now = f"step {step}/{self._steps}  loss {loss:.4f}"
        if step == self._first:
            compiled = time.perf_counter() - self._since
            self._since, self._waited = time.perf_counter(), 0.0
            return f"{now}  (compiled in {_span(compiled)})"
        rate = self.rate(step)
        left = _span((self._steps - step) / rate)
        waited = self._waited / max(time.perf_counter() - self._since, 1e-9)
        return (
            f"{now}  {rate:.3g} steps/s  {rate * self._batch_size:.3g} samples/s"
            f"  {waited:.0%} data wait  {left} left"
        )


def _span(seconds: float) -> str:
    minutes = seconds / 60
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"
