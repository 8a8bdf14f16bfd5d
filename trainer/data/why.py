"""`consumed`: the samples of a training step, named again from (config, table, step) alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from schemas import Chunk, UsageError
from trainer.data.order import OrderSpec, rows_at
from trainer.data.table import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consumed:
    """One sample of one step.

    Attributes:
        step: the optimiser step that it was part of, from 0.
        position: its place in that step's batch, over all processes.
        row: its number in the table.
        chunk: the record, frames still encoded, with its passport.
    """

    step: int
    position: int
    row: int
    chunk: Chunk


def consumed(
    table: Table, spec: OrderSpec, step: int, positions: Sequence[int] | None = None
) -> list[Consumed]:
    """The samples of one step, in the order of the batch.

    No log is read and no step replayed: the order is a function of (table, weights, seed, step).

    Args:
        table, spec: what the run trained on, as it trained on it.
        step: from 0; step n moves the parameters from checkpoint n to n + 1.
        positions: which places of the batch; None is all.

    Raises:
        UsageError: for a step or a position that does not exist, or a damaged record.
    """
    if step < 0:
        raise UsageError(f"--step is {step}, wanted 0 or more")
    positions = range(spec.batch_size) if positions is None else positions
    for position in positions:
        if not 0 <= position < spec.batch_size:
            raise UsageError(
                f"--position is {position}, but a batch has positions 0..{spec.batch_size - 1}"
            )
    rows = rows_at(table, spec, step)[np.asarray(positions, int)].tolist()
    return [
        Consumed(step=step, position=position, row=row, chunk=chunk)
        for position, row, chunk in zip(positions, rows, table.chunks(rows), strict=True)
    ]
