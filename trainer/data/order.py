"""The order of samples: a function of (samples, weights, seed, position) alone.

Which samples the batch of step n holds can be named without reading pixels or replaying the steps
before, and depends neither on threads nor on the number of processes. Datasets are interleaved in
proportion to their weights, never a whole sample away from them, and each is shuffled anew in each
of its epochs. Nothing is kept but one short schedule.

When a run is resumed with other weights, a new era begins: datasets go on in their epochs where
they were, and take turns by the new weights from then on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import grain.experimental
import numpy as np

from schemas import UsageError
from schemas.record import digest
from trainer.data.samples import Sample, Samples

OTHER_WEIGHT = 0.05
_PERIOD = 10_000
_ROUNDS = 4  # of the Feistel cipher that shuffles


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderSpec:
    """What fixes the order of samples.

    Attributes:
        weights: dataset name -> mixture weight; empty weighs all alike. A dataset that it does not
            name weighs `OTHER_WEIGHT`, a weight of 0 leaves the dataset out, and datasets that the
            table lacks are ignored.
        temperature: weights are raised to its inverse: above 1 they are more even.
        batch_size: samples of a step, over all processes.
        seed: of the shuffles, 0..2^32-1.
    """

    weights: Mapping[str, float]
    batch_size: int
    seed: int
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Era:
    """The steps from one on, as long as nothing changes.

    Attributes:
        step: the first of them.
        batch_size, seed: as of `OrderSpec`.
        turns: of each dataset in a period.
        drawn: how many samples each had given before.
        shuffle: how often the samples themselves have changed; their epochs began anew then.
    """

    step: int
    batch_size: int
    seed: int
    turns: dict[str, int]
    drawn: dict[str, int]
    shuffle: int = 0

    def shares(self) -> dict[str, float]:
        """Of each dataset in the samples, adding up to 1."""
        return {name: turns / sum(self.turns.values()) for name, turns in self.turns.items()}

    def drawn_at(self, step: int) -> dict[str, int]:
        """How many samples each dataset has given before a step of this era."""
        turns, _ = schedule(tuple(self.turns.values()))
        periods, at = divmod((step - self.step) * self.batch_size, len(turns))
        given = dict(self.drawn)
        for i, (name, per_period) in enumerate(self.turns.items()):
            inside = int(np.count_nonzero(turns[:at] == i))
            given[name] = given.get(name, 0) + periods * per_period + inside
        return given


def begin(samples: Samples, spec: OrderSpec) -> Era:
    """The first era.

    Turns are in proportion to the weights, which are rounded if they are no whole multiples of 1/n
    for any n up to 10,000.

    Raises:
        UsageError: if a weight is senseless, there is nothing to draw from, or less than a batch.
    """
    turns = _turns(samples, spec)
    return Era(step=0, batch_size=spec.batch_size, seed=spec.seed, turns=turns, drawn={})


def go_on(
    eras: Sequence[Era], step: int, samples: Samples, spec: OrderSpec, *, changed: bool
) -> tuple[Era, ...]:
    """The eras of a run that is resumed at a step: one more if the order is another from now on.

    Args:
        eras: until now.
        samples, spec: from now on.
        changed: whether the samples themselves are others than before.

    Raises:
        UsageError: as `begin`.
    """
    last, new = eras[-1], begin(samples, spec)
    same = ("batch_size", "seed", "turns")
    if not changed and all(getattr(last, name) == getattr(new, name) for name in same):
        return tuple(eras)
    afresh = changed or last.seed != new.seed
    drawn = {} if afresh else last.drawn_at(step)
    new = dataclasses.replace(new, step=step, drawn=drawn, shuffle=last.shuffle + changed)
    return (*(era for era in eras if era.step < step), new)


class Order:
    """The samples of all steps, without end.

    Args:
        samples: which are drawn; of eras with another `shuffle` than the last they were others.
        eras: one after another.
    """

    def __init__(self, samples: Samples, eras: Sequence[Era]):
        self.samples, self.eras = samples, tuple(eras)

    @property
    def batch_size(self) -> int:
        """Of the last era."""
        return self.eras[-1].batch_size

    def era(self, step: int) -> Era:
        """That of a step."""
        return next((e for e in reversed(self.eras) if e.step <= step), self.eras[0])

    def batch(self, step: int, places: Sequence[int] | None = None) -> list[Sample]:
        """The samples of a step's batch.

        Args:
            places: which of them, each from 0 up; None is all.
        """
        era = self.era(step)
        places = range(era.batch_size) if places is None else places
        first = (step - era.step) * era.batch_size
        names, counts = list(era.turns), list(era.turns.values())
        turns, before = schedule(tuple(counts))
        found = []
        for place in places:
            period, at = divmod(first + place, len(turns))
            dataset = turns.item(at)
            drawn = period * counts[dataset] + before.item(at)
            found.append(self._drawn(era, names[dataset], drawn))
        return found

    def _drawn(self, era: Era, dataset: str, number: int) -> Sample:
        """The sample that a dataset gives when it gives that many-th of an era, from 0 up."""
        samples = self.samples.by_dataset[dataset]
        epoch, index = divmod(era.drawn.get(dataset, 0) + number, len(samples))
        seed = (_seed(era.seed, dataset, era.shuffle) + epoch) % 2**32
        shuffle = grain.experimental.index_shuffle
        return samples[shuffle(index, max_index=len(samples) - 1, seed=seed, rounds=_ROUNDS)]


@functools.lru_cache(maxsize=8)
def schedule(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Whose turn it is at each position of a period, and how often it was theirs before in it.

    After any number of positions, each has had its share of them to less than one turn; after the
    whole period, exactly its count. This is the chairman assignment of Tijdeman (1980, "The
    chairman assignment problem", section 2), in whole numbers.

    Args:
        counts: turns of each in a period, 1 or more.

    Returns:
        Two int64 `[sum of counts]`.
    """
    share, total, k = np.array(counts, np.int64), sum(counts), len(counts)
    unit = 2 * max(k - 1, 1)  # 1 - 1/unit is how far anyone may be from their share
    had = np.zeros(k, np.int64)
    turns, before = np.zeros(total, np.int64), np.zeros(total, np.int64)
    for n in range(total):
        owed = unit * (share * (n + 1) - had * total)
        # positions until it would be too late, among those that it is not too early for
        patience = (unit * total - total - owed) / share
        patience[owed < total] = np.inf
        chosen = int(patience.argmin()) if k > 1 else 0
        turns[n], before[n] = chosen, had[chosen]
        had[chosen] += 1
    return turns, before


def _turns(samples: Samples, spec: OrderSpec) -> dict[str, int]:
    """Turns of each dataset in a period, by name. Raises as `begin`."""
    for name, weight in spec.weights.items():
        if not (np.isfinite(weight) and weight >= 0):
            raise UsageError(f"weight of {name} is {weight}, wanted a number from 0 up")
    if not (np.isfinite(spec.temperature) and spec.temperature > 0):
        raise UsageError(f"--temperature is {spec.temperature}, wanted more than 0")
    counts = {name: len(found) for name, found in samples.by_dataset.items()}
    weights = {
        name: spec.weights.get(name, OTHER_WEIGHT if spec.weights else 1.0)
        for name, count in counts.items()
        if count
    }
    weights = {name: w ** (1 / spec.temperature) for name, w in weights.items() if w}
    available = sum(counts[name] for name in weights)
    if available < spec.batch_size or not available:
        raise UsageError(
            f"{available} samples are there in the datasets that have a weight, fewer than a batch"
            f" of {spec.batch_size}; lower --batch-size, widen --where, or prepare more data"
        )
    names = sorted(weights)  # as JSON may store them
    return dict(zip(names, whole_shares([weights[name] for name in names]), strict=True))


def whole_shares(weights: Sequence[float]) -> list[int]:
    """Whole numbers, 1 or more, in proportion to positive weights: the smallest that are so to a
    billionth, else the nearest that add up to about 10,000."""
    shares = np.array(weights, np.float64) / np.sum(weights)
    totals = np.arange(1, _PERIOD + 1)[:, None]
    fits = np.abs(totals * shares - np.round(totals * shares)).max(1) < 1e-9 * totals[:, 0]
    fits &= (np.round(totals * shares) >= 1).all(1)
    total = int(totals[fits.argmax(), 0]) if fits.any() else _PERIOD
    return np.maximum(np.round(total * shares), 1).astype(int).tolist()


@functools.lru_cache(maxsize=1024)
def _seed(seed: int, dataset: str, shuffle: int) -> int:
    """A dataset's own seed: neighbouring seeds and equal lengths must not give equal shuffles."""
    name = f"{seed}/{dataset}/{shuffle}" if shuffle else f"{seed}/{dataset}"
    return int.from_bytes(digest(name.encode())[:4], "little")
