"""The family "drift": this table's statistics against another's, dataset by dataset."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from pipelines.audit.check import Finding, Where, check
from pipelines.audit.limits import Limits
from pipelines.audit.statistics import Statistics
from schemas import SLOTS, Manifest, UsageError

ByDataset = Mapping[str, Statistics]


def drift(now: ByDataset, before: ByDataset, limits: Limits) -> Iterator[Finding]:
    """All that has moved."""
    yield from datasets(now, before)
    for name in sorted(now.keys() & before.keys()):
        for each in (counts, shapes, controls):
            yield from each(name, now[name], before[name], limits)


@check("drift-dataset", "drift", "warning")
def datasets(now: ByDataset, before: ByDataset) -> Iterator[tuple[Where, str]]:
    """No dataset has come or gone."""
    for name in sorted(before.keys() - now.keys()):
        yield name, "is no longer in the table"
    for name in sorted(now.keys() - before.keys()):
        yield name, "is new in the table"


@check("drift-count", "drift", "warning")
def counts(
    name: str, now: Statistics, before: Statistics, limits: Limits
) -> Iterator[tuple[Where, str]]:
    """A dataset's number of episodes is nearly what it was."""
    change = (now.episodes - before.episodes) / max(before.episodes, 1)
    if abs(change) > limits.drift["count"]:
        yield name, f"{now.episodes:,} episodes, {before.episodes:,} before ({change:+.0%})"


@check("drift-shape", "drift", "warning")
def shapes(
    name: str, now: Statistics, before: Statistics, limits: Limits
) -> Iterator[tuple[Where, str]]:
    """Lengths, frame rates, text lengths and brightness are spread as they were."""
    for what, a, b in _histograms(now, before):
        if min(a.sum(), b.sum()) < limits.drift["least"]:
            continue
        distance = jensen_shannon(a, b)
        if distance > limits.drift["distance"]:
            yield name, f"{what}: a Jensen-Shannon distance of {distance:.2f}"


@check("drift-controls", "drift", "warning")
def controls(
    name: str, now: Statistics, before: Statistics, limits: Limits
) -> Iterator[tuple[Where, str]]:
    """The values of every control slot are spread as they were."""
    for slot, a, b in zip(SLOTS, now.controls, before.controls, strict=True):
        if a.any() != b.any():
            yield name, f"{slot.name} is {'new' if a.any() else 'no longer there'}"
        elif min(a.sum(), b.sum()) >= limits.drift["least"]:
            distance = jensen_shannon(a, b)
            if distance > limits.drift["controls"]:
                yield name, f"{slot.name}: a Jensen-Shannon distance of {distance:.2f}"


@check("drift-manifest", "drift", "warning")
def manifests(now: Manifest, before: Manifest, limits: Limits) -> Iterator[tuple[Where, str]]:
    """Datasets, episodes, frames per record and controls' means are nearly those of a manifest."""
    old = {dataset.name: dataset for dataset in before.datasets}
    new = {dataset.name: dataset for dataset in now.datasets}
    for name in sorted(old.keys() ^ new.keys()):
        yield name, "is no longer in the table" if name in old else "is new in the table"
    for name in sorted(old.keys() & new.keys()):
        a, b = new[name], old[name]
        change = (a.episodes - b.episodes) / max(b.episodes, 1)
        if abs(change) > limits.drift["count"]:
            yield name, f"{a.episodes:,} episodes, {b.episodes:,} before ({change:+.0%})"
        length, before_that = (d.frames / max(d.chunks, 1) for d in (a, b))
        if abs(length / max(before_that, 1e-9) - 1) > limits.drift["distance"]:
            yield name, f"{length:.1f} frames per record, {before_that:.1f} before"
        for slot in sorted(a.controls.keys() ^ b.controls.keys()):
            yield name, f"{slot} is {'new' if slot in a.controls else 'no longer there'}"
        for slot in sorted(a.controls.keys() & b.controls.keys()):
            x, y = a.controls[slot], b.controls[slot]
            moved = abs(x["mean"] - y["mean"]) / max(y["std"], 1e-6)
            if moved > limits.drift["mean"]:
                yield name, f"{slot}: its mean has moved by {moved:.1f} standard deviations"


def jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    """The distance of two histograms, 0 (alike) to 1 (nothing in common): the square root of the
    divergence to base 2 (Endres and Schindelin 2003)."""
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2

    def divergence(x: np.ndarray) -> float:
        there = x > 0
        return float((x[there] * np.log2(x[there] / middle[there])).sum())

    return float(np.sqrt(max(0.0, (divergence(p) + divergence(q)) / 2)))


def _histograms(
    now: Statistics, before: Statistics
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    yield "frames per record", now.frames_per_record, before.frames_per_record
    yield "records per episode", *_aligned(now.records_per_episode, before.records_per_episode)
    yield "frames per second", *_aligned(now.fps, before.fps)
    yield "length of texts", now.text_length, before.text_length
    yield "brightness", now.brightness, before.brightness


def _aligned(a: Counter[str], b: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    names = sorted(a.keys() | b.keys())
    return np.array([a[n] for n in names], np.int64), np.array([b[n] for n in names], np.int64)


def load(path: str) -> dict[str, Statistics]:
    """The statistics that an earlier audit wrote (--statistics).

    Raises:
        UsageError: if the file is not there or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as f:
            return {name: Statistics.from_dict(value) for name, value in json.load(f).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise UsageError(
            f"--against {path}: no statistics ({type(e).__name__}: {e}); wanted a table's folder or"
            " a file that `unisim audit TABLE --statistics FILE` wrote"
        ) from e
