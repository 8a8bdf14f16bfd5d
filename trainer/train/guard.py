"""`LossGuard`: ends a run whose loss is lost, before that is saved."""

from __future__ import annotations

import collections
import math
from pathlib import Path

from schemas import UsageError

_WINDOW = 100


class LossGuard:
    """Looks at the loss of every step, in order.

    Args:
        run: the run's folder, to be named.
        spike: a loss so many times the highest of the 100 steps before is one; 0 is none.
    """

    def __init__(self, run: Path, spike: float):
        self._run, self._spike = run, spike
        self._recent: collections.deque[float] = collections.deque(maxlen=_WINDOW)

    def check(self, step: int, loss: float) -> None:
        """Raises UsageError if the loss is not finite any more, or leaps."""
        highest = max(self._recent, default=math.inf)
        leaps = self._spike > 0 and len(self._recent) == _WINDOW and loss > self._spike * highest
        if not math.isfinite(loss):
            raise UsageError(
                f"{self._run}: the loss is {loss} at step {step}{self._samples(step)}; train again"
                " into another --out with a lower --learning-rate or with --clip-norm 1"
            )
        if leaps:
            raise UsageError(
                f"{self._run}: the loss leaps to {loss:.4g} at step {step}, {loss / highest:.3g}"
                f" times the highest of the {_WINDOW} steps before{self._samples(step)}; the last"
                " checkpoint is from before: go on from it with a higher --spike (0 is none), or"
                " train again into another --out with a lower --learning-rate or with --clip-norm 1"
            )
        self._recent.append(loss)

    def _samples(self, step: int) -> str:
        return f" (its samples: `unisim why --run {self._run} --step {step - 1}`)"
