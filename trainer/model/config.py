"""`ModelConfig`: the sizes of a video U-Net."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple

import jax.numpy as jnp

from schemas import BINS, NUM_SLOTS, UsageError

Remat = Literal["none", "dots", "blocks"]
"""What a block's backward pass finds stored: everything; the outputs of matrix products; nothing
but the block's input, so the block is computed twice."""


class Heads(NamedTuple):
    """Attention heads of a level, 0 for none: of spatial and action attention; of temporal."""

    space: int
    time: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a `VideoUNet`. The defaults of the first block are UniSim's base model (Table 6).

    Levels are numbered from the finest, 0: of 24×40 frames, levels 0, 1, 2 are 24, 12 and 6 rows
    high, which is how Table 6 names them.

    Attributes:
        channels: width at the finest level.
        multipliers: width of each level, in `channels`.
        blocks: residual blocks per level, on the way down and again on the way up.
        attention: levels that have spatial, action and temporal attention. Frames see each other
            there and nowhere else. Memory grows with the square of a level's pixels.
        temporal_only: those of these levels that have temporal attention alone, whose memory does
            not: fine levels on a small machine.
        heads: attention heads of each level in `attention`.
        head_width: width of a head. Unpublished; at 128 the model has the published 5.6 B
            parameters.
        cond_width: width of action tokens and of the embedding that enters every residual block.
        cond_mlp_layers: layers of the MLP that makes that embedding.
        dropout: rate, before the second convolution of a residual block.

        text_width: of the text encoder's embeddings; 0 in a training config is the table's.
        control_width: of the layer that reads the controls.
        control_slots, control_bins: of `schemas.controls`.
        history_frames: k, the frames of history (4 in UniSim).
        max_frames: temporal attention tells offsets apart up to this many frames.
        norm_groups: most groups of a group normalisation; a group has at least 4 channels.
        patch: side of the pixel squares that enter as one position. 1 in UniSim; 2 quarters the
            work of every level.
        temporal: how frames see each other: by attention at the levels in `attention` (base), or by
            convolution after every block (super-resolution).
        residual: above 0, the model predicts how frames differ from the newest of the history, and
            takes that to have this standard deviation; see `VideoUNet`. 0 in UniSim.
        upscale: height and width over those of the low-resolution video that the model also sees;
            1 is none (base).
        dtype: of activations and matrix products; parameters, norms and softmax are float32.
        conv: how 3×3 convolutions are computed (`layers.conv3x3`).
        scan: runs the equal blocks of a level in one loop, which XLA compiles once.
        remat: what the backward pass computes anew, to save memory.
    """

    channels: int = 1024
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (0, 1, 2)
    temporal_only: tuple[int, ...] = ()
    heads: tuple[int, ...] = (8, 16, 16)
    head_width: int = 128
    cond_width: int = 4096
    cond_mlp_layers: int = 4
    dropout: float = 0.1

    text_width: int = 4096
    control_width: int = 1024
    control_slots: int = NUM_SLOTS
    control_bins: int = BINS
    history_frames: int = 4
    max_frames: int = 16
    norm_groups: int = 32
    patch: int = 1
    temporal: Literal["attention", "convolution"] = "attention"
    residual: float = 0.0
    upscale: int = 1
    dtype: Literal["float32", "bfloat16"] = "float32"
    conv: Literal["auto", "patches", "native"] = "auto"
    scan: bool = False
    remat: Remat = "none"

    def __post_init__(self):
        counts = ("channels", "blocks", "cond_width", "cond_mlp_layers", "upscale", "patch")
        counts += (
            "control_width",
            "control_slots",
            "control_bins",
            "max_frames",
            "norm_groups",
            "head_width",
        )
        for name in counts:
            if getattr(self, name) < 1:
                raise UsageError(f"model: {name} is {getattr(self, name)}, wanted at least 1")
        for name in ("history_frames", "text_width"):
            if getattr(self, name) < 0:
                raise UsageError(f"model: {name} is {getattr(self, name)}, wanted 0 or more")
        if not self.multipliers or min(self.multipliers) < 1:
            raise UsageError(
                f"model: multipliers are {self.multipliers}, wanted one or more, all ≥ 1"
            )
        if not self.residual >= 0:
            raise UsageError(f"model: residual is {self.residual}, wanted 0 or more")
        if self.residual and not self.history_frames:
            raise UsageError("model: residual needs history_frames of 1 or more")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"model: dropout is {self.dropout}, wanted 0 or more and below 1")
        self._check_attention()

    def _check_attention(self):
        if len(self.heads) != len(self.attention) or len(set(self.attention)) != len(self.heads):
            raise UsageError(
                f"model: attention levels {self.attention} and heads {self.heads};"
                " wanted distinct levels and one number of heads for each"
            )
        for level, heads in zip(self.attention, self.heads, strict=True):
            if not 0 <= level < self.levels:
                raise UsageError(
                    f"model: attention at level {level}, but multipliers {self.multipliers} make"
                    f" levels 0 (finest) to {self.levels - 1}"
                )
            if heads < 1:
                raise UsageError(f"model: {heads} heads at level {level}, wanted at least 1")
        wanted = self.attention if self.temporal == "attention" else ()
        if set(self.temporal_only) - set(wanted):
            raise UsageError(
                f"model: temporal attention only at levels {self.temporal_only}; wanted levels of"
                f" those that have temporal attention, {wanted}"
            )

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.multipliers)

    @property
    def compute(self) -> jnp.dtype:
        """The type of activations."""
        return jnp.dtype(self.dtype)

    def width(self, level: int) -> int:
        """Channels at a level."""
        return self.channels * self.multipliers[level]

    def heads_at(self, level: int) -> Heads:
        """Attention heads at a level."""
        heads = dict(zip(self.attention, self.heads, strict=True)).get(level, 0)
        return Heads(
            space=0 if level in self.temporal_only else heads,
            time=heads if self.temporal == "attention" else 0,
        )

    def check_frames(self, height: int, width: int) -> None:
        """Raises UsageError if frames of this size cannot be halved down to the coarsest level."""
        factor = math.lcm(self.patch * 2 ** (self.levels - 1), self.upscale)
        if height % factor or width % factor or not (height and width):
            near = [max(1, round(side / factor)) * factor for side in (height, width)]
            raise UsageError(
                f"model: frames of {height}x{width} cannot be halved down {self.levels} levels;"
                f" wanted multiples of {factor}, such as {near[0]}x{near[1]}, or fewer multipliers"
            )
