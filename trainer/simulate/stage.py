"""`Stage`: one trained model of a cascade."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from schemas import EncoderInfo, Tier, UsageError
from trainer.train.checkpoint import Checkpoints, RunInfo
from trainer.train.damage import Damaged
from trainer.train.state import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """The moving average of a run.

    Attributes:
        folder: of the run.
        step: that was saved last.
        info: what made it.
        params: the average.
    """

    folder: Path
    step: int
    info: RunInfo
    params: Params


def load_stage(folder: Path, encoder: EncoderInfo) -> Stage:
    """A run's last checkpoint. Raises as `describe`."""
    step, info = describe(folder, encoder)
    with Checkpoints(folder, keep=None) as checkpoints, _remedied():
        params = checkpoints.ema(step, info.config)
    return Stage(folder=folder, step=step, info=info, params=params)


@contextlib.contextmanager
def _remedied() -> Iterator[None]:
    """Says of a damaged checkpoint what can be done."""
    try:
        yield
    except Damaged as e:
        raise UsageError(
            f"{e}; restore it from a copy, or give its `unisim train` command again, which sets it"
            " aside and goes on from the one before"
        ) from e


def check_cascade(stages: Sequence[Stage]) -> None:
    """Raises UsageError unless the first is a base model and each other refines the one before."""
    base = stages[0]
    if base.info.config.model.upscale > 1:
        raise UsageError(
            f"{base.folder}: is a super-resolution run; --checkpoint wants a base model's, and this"
            " one as --finer"
        )
    for coarse, fine in itertools.pairwise(stages):
        small, large = (Tier.parse(s.info.config.tier) for s in (coarse, fine))
        factor = fine.info.config.model.upscale
        if factor == 1 or (large.height, large.width) != (
            small.height * factor,
            small.width * factor,
        ):
            raise UsageError(
                f"{fine.folder}: makes {large.name} of {factor}x smaller frames, but what comes"
                f" before it makes {small.name}; give --finer runs from coarse to fine"
            )
        for name in ("frames", "tokens", "history"):
            ours, theirs = (getattr(s.info.config, name) for s in (fine, base))
            if ours != theirs:
                raise UsageError(
                    f"{fine.folder}: was trained with {name} {ours}, the base model with {theirs}"
                )
        if fine.info.config.model.history_frames != base.info.config.model.history_frames:
            raise UsageError(f"{fine.folder}: has another number of history frames than the base")


def describe(checkpoint: Path, encoder: EncoderInfo | None = None) -> tuple[int, RunInfo]:
    """The last step that a run saved and what made it, without reading a parameter.

    Args:
        encoder: what will embed the actions; None is not known yet.

    Raises:
        UsageError: if there is no checkpoint, it is damaged, or it was trained with another text
            encoder.
    """
    with Checkpoints(checkpoint, keep=None) as checkpoints:
        step = checkpoints.latest() or 0
        with _remedied():
            info = checkpoints.info(step)
    if encoder is not None and encoder.digest != info.encoder.digest:
        raise UsageError(
            f"{checkpoint}: was trained with the text encoder {info.encoder.name!r} (digest"
            f" {info.encoder.digest[:12]}), but this is {encoder.name!r} (digest"
            f" {encoder.digest[:12]}); pass the --t5 that the table was prepared with"
        )
    return step, info
