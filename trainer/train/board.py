"""`Board`: a run's curves for TensorBoard, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

FOLDER = "tensorboard"


class Board:
    """`RUN/tensorboard/`, a file per process that the run had. Close it.

    Args:
        run: the run's folder.
        step: steps done; what earlier files say of later steps is not shown any more.
    """

    def __init__(self, run: Path, step: int):
        self._writer = SummaryWriter(
            str(run / FOLDER),
            purge_step=step + 1 if step else None,
            filename_suffix=f".from-{step}",
        )

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve, by its name: "train/loss"."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
