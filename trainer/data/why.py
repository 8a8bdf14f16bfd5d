"""`consumed`: the samples of a training step, named again from (config, table, step) alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from schemas import Chunk, UsageError
from trainer.data.order import Order
from trainer.data.table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consumed:
    """One sample of one step.

    Attributes:
        step: the optimiser step that it was part of, from 0.
        position: its place in that step's batch, over all processes.
        row: its number in the table.
        begin: where in the row its frames begin, as of `Sample`.
        chunk: the record, frames still encoded, with its passport.
    """

    step: int
    position: int
    row: int
    begin: int
    chunk: Chunk


def consumed(
    table: Table, order: Order, step: int, positions: Sequence[int] | None = None
) -> list[Consumed]:
    """The samples of one step, in the order of the batch.

    No log is read and no step replayed: the order is a function of (samples, weights, seed, step).

    Args:
        table, order: what the run trained on, as it trained on it.
        step: from 0; step n moves the parameters from checkpoint n to n + 1.
        positions: which places of the batch; None is all.

    Raises:
        UsageError: for a step or a position that does not exist, or a damaged record.
    """
    if step < 0:
        raise UsageError(f"--step is {step}, wanted 0 or more")
    era = order.era(step)
    if era.shuffle != order.eras[-1].shuffle:
        first = min(e.step for e in order.eras if e.shuffle == order.eras[-1].shuffle)
        raise UsageError(
            f"--step is {step}, but the samples changed at step {first}; an earlier checkpoint's"
            " config tells of those before"
        )
    size = era.batch_size
    positions = range(size) if positions is None else positions
    for position in positions:
        if not 0 <= position < size:
            raise UsageError(f"--position is {position}, but a batch has positions 0..{size - 1}")
    samples = order.batch(step, positions)
    chunks = table.chunks([sample.row for sample in samples])
    return [
        Consumed(step=step, position=position, row=sample.row, begin=sample.begin, chunk=chunk)
        for position, sample, chunk in zip(positions, samples, chunks, strict=True)
    ]
