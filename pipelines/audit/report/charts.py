"""`Chart`: a histogram as the page draws it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipelines.audit.statistics import EDGES, Statistics
from schemas import SLOTS

_MOST = 24  # bars


class Chart(NamedTuple):
    """One histogram.

    Attributes:
        title: what is counted by what.
        heights: of the bars, 0 to 1.
        labels: of each bar, for who points at it.
        low, high: below the first and the last bar.
    """

    title: str
    heights: list[float]
    labels: list[str]
    low: str
    high: str


def charts(statistics: Statistics) -> list[Chart]:
    """Those of a dataset, without the empty ones."""
    s = statistics
    found = [
        _chart("frames per record", s.frames_per_record, [str(i) for i in range(17)]),
        _numbers("records per episode", s.records_per_episode),
        _numbers("frames per second", s.fps),
        _chart("characters of text", s.text_length, [str(8 * i) for i in range(64)]),
        _chart("brightness", s.brightness, [str(8 * i) for i in range(32)]),
    ]
    for slot, counts in zip(SLOTS, s.controls, strict=True):
        values = slot.low + (EDGES + 1) / 2 * (slot.high - slot.low)
        names = [f"{value:.3g}" for value in values]
        unit = "" if slot.unit == "1" else f", {slot.unit}"
        found.append(_chart(f"{slot.name}{unit}", counts, names))
    return [chart for chart in found if chart is not None]


def _numbers(title: str, counts) -> Chart | None:
    """Of numbers that are names of counts; many are put into as many bars as there is room for."""
    values = np.array([float(name) for name in counts])
    weights = np.array(list(counts.values()))[np.isfinite(values)]
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    if len(values) <= _MOST:
        order = np.argsort(values)
        return _chart(title, weights[order], [f"{values[i]:g}" for i in order], trim=False)
    heights, edges = np.histogram(values, _MOST, weights=weights)
    return _chart(title, heights, [f"{edge:.3g}" for edge in edges[:-1]], trim=False)


def _chart(title: str, counts: np.ndarray, names: list[str], *, trim: bool = True) -> Chart | None:
    there = np.flatnonzero(counts)
    if not len(there):
        return None
    first, last = (there[0], there[-1]) if trim else (0, len(counts) - 1)
    shown = counts[first : last + 1]
    return Chart(
        title=title,
        heights=(shown / shown.max()).tolist(),
        labels=[f"{names[first + i]}: {int(n):,}" for i, n in enumerate(shown)],
        low=names[first],
        high=names[last],
    )
