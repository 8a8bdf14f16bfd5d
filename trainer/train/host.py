"""`HostReport`: whether one host reads a table as fast as its part of a slice trains."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

from schemas import UsageError
from trainer.configs.config import TrainConfig
from trainer.data import batches, threads_for
from trainer.train.chips import parse
from trainer.train.report import Report
from trainer.train.setup import Setup, set_up

_CHIPS = 4  # of a host of a slice
_WARM, _ROUNDS, _SECONDS = 2, 3, 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class HostReport:
    """What this machine's loader gives, against what a host of the slice takes.

    Attributes:
        hosts: of the slice.
        samples: of a batch that each of them reads.
        measured: samples a second that this machine reads.
        wanted: samples a second that a host's chips take at the stated efficiency.
        epochs: dataset -> how often it is seen over the config's steps.
    """

    hosts: int
    samples: int
    measured: float
    wanted: float
    epochs: dict[str, float]

    @property
    def data_bound(self) -> bool:
        """Whether the chips would wait for samples."""
        return self.measured < self.wanted

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self) | {"data_bound": self.data_bound}

    def __str__(self) -> str:
        ratio = self.measured / self.wanted
        verdict = "data-bound: the chips would wait" if self.data_bound else "not data-bound"
        epochs = ", ".join(f"{name} {count:.3g}" for name, count in self.epochs.items())
        return (
            f"  a host        reads {self.measured:.4g} samples/s here; one of {self.hosts} hosts"
            f" takes {self.wanted:.4g}: {verdict} ({ratio:.3g}x)\n  epochs        {epochs}"
        )


def open_host(config: TrainConfig, topology: str, data: Sequence[str]) -> tuple[Setup, int]:
    """The table that would be trained on, and the number of hosts.

    Raises:
        UsageError: as `set_up`, and if the batch does not divide over the hosts.
    """
    _, chips = parse(topology)
    hosts = -(-chips // _CHIPS)
    if config.batch_size % hosts:
        raise UsageError(
            f"--batch-size {config.batch_size} does not divide over the {hosts} hosts of"
            f" {topology}; wanted a multiple of {hosts}"
        )
    return set_up(dataclasses.replace(config, model_axis=1, accumulate=1), data), hosts


def measure(setup: Setup, hosts: int, report: Report) -> HostReport:
    """Reads a host's part of some batches, as training would, for a few seconds.

    The median of three rounds counts. What is in the page cache by then is read from there.

    Args:
        report: of the compiled step; its seconds and efficiency say what is wanted.
    """
    config, samples = setup.config, setup.config.batch_size // hosts
    iterator = batches(
        setup.maker,
        setup.order,
        places=range(samples),
        threads=config.read_threads or threads_for(setup.table.tier),
    )
    for _ in range(_WARM):
        next(iterator)
    rates = []
    for _ in range(_ROUNDS):
        start, count = time.perf_counter(), 0
        while not count or time.perf_counter() - start < _SECONDS:
            next(iterator)
            count += 1
        rates.append(count * samples / (time.perf_counter() - start))
    era = setup.info.eras[-1]
    given = era.drawn_at(config.steps)
    return HostReport(
        hosts=hosts,
        samples=samples,
        measured=statistics.median(rates),
        wanted=samples / max(report.seconds / report.efficiency, 1e-12),
        epochs={name: given[name] / len(setup.samples.by_dataset[name]) for name in era.turns},
    )
