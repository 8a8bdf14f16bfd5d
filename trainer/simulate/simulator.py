"""`Simulator`: a trained checkpoint that answers an action with frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from schemas import NUM_SLOTS, EncoderInfo, Tier, UsageError
from trainer.configs.config import TrainConfig
from trainer.data import EMPTY, history_offsets
from trainer.data.example import pad_tokens
from trainer.diffusion import (
    AncestralSampler,
    CosineSchedule,
    DDIMSampler,
    DPMSolver,
    Sampler,
    guided,
)
from trainer.train.checkpoint import Checkpoints, RunInfo
from trainer.train.state import Params, bind, graph_of
from trainer.train.step import Empty, conditioning, to_pixels

Embed = Callable[[Sequence[str]], list[np.ndarray]]
"""Texts -> their embeddings, bfloat16 `[tokens, width]` each, real tokens only."""

Method = Literal["ancestral", "ddim", "dpm"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    """How frames are drawn.

    Attributes:
        method: "ancestral" is the paper's; "ddim" and "dpm" (DPM-Solver++(2M)) draw noise once and
            need fewer steps.
        steps: denoising steps; the paper takes 256, fewer are faster and coarser.
        eta: guidance strength; 0 does not guide. Unpublished, so ours to choose.
        gamma: interpolates the log-variance of the ancestral sampler's noise (Table 6: 0.1).
    """

    method: Method = "ancestral"
    steps: int = 32
    eta: float = 1.0
    gamma: float = 0.1

    def __post_init__(self):
        if not np.isfinite(self.eta):
            raise UsageError(f"--eta is {self.eta}, wanted a number")

    def build(self, config: TrainConfig) -> Sampler:
        """The sampler of a model that was trained with `config`."""
        schedule = CosineSchedule(log_snr_min=config.log_snr_min, log_snr_max=config.log_snr_max)
        if self.method == "ddim":
            return DDIMSampler(steps=self.steps, schedule=schedule, clip=config.clip)
        if self.method == "dpm":
            return DPMSolver(steps=self.steps, schedule=schedule, clip=config.clip)
        return AncestralSampler(
            steps=self.steps, gamma=self.gamma, schedule=schedule, clip=config.clip
        )


class Simulator:
    """The moving average of a run's parameters, compiled once for each number of videos.

    Args:
        checkpoint: folder of a run; its last checkpoint is taken.
        embed: embeds action texts; given as a function, so that this package needs no text model.
        encoder: what `embed` is.
        sampler: how frames are drawn.

    Raises:
        UsageError: if there is no checkpoint, or it was trained with another text encoder.
    """

    def __init__(
        self,
        checkpoint: Path,
        embed: Embed,
        encoder: EncoderInfo,
        sampler: SamplerSpec | None = None,
    ):
        self.step_trained, self.info = describe(checkpoint, encoder)
        with Checkpoints(checkpoint, keep=None) as checkpoints:
            self._params = checkpoints.ema(self.step_trained, self.info.config)
        config = self.info.config
        self.tier = Tier.parse(config.tier)
        self.frames = config.frames
        self.history = history_offsets(config.history, config.model.history_frames)
        self._embed = embed
        self._empty = self._tokens([EMPTY])
        self._sample = jax.jit(self._build(sampler or SamplerSpec()))

    def step(
        self, history: np.ndarray, history_mask: np.ndarray, actions: Sequence[str], key: Array
    ) -> np.ndarray:
        """What happens next, for b videos at once.

        Args:
            history: uint8 `[b, k, h, w, 3]`, oldest first, at the offsets `self.history`.
            history_mask: bool `[b, k]`, the frames that exist.
            actions: b texts.
            key: of the noise; equal keys give equal frames.

        Returns:
            uint8 `[b, T, h, w, 3]`.

        Raises:
            UsageError: if an action is empty.
        """
        if not all(action.strip() for action in actions):
            raise UsageError("an --action is empty; say what is done, as in 'push the red block'")
        b, t = len(actions), self.frames
        tokens, token_mask = self._tokens(actions)
        batch = {
            "history": jnp.asarray(history),
            "history_mask": jnp.asarray(history_mask),
            "tokens": tokens,
            "token_mask": token_mask,
            # an action in words alone: the slots exist in the model but this action has none
            "controls": jnp.zeros((b, t, NUM_SLOTS), jnp.int32),
            "control_mask": jnp.zeros((b, NUM_SLOTS), bool),
            "frame_mask": jnp.ones((b, t), bool),
        }
        empty = (self._empty[0][0], self._empty[1][0])
        return np.asarray(self._sample(self._params, batch, empty, key))

    def _tokens(self, texts: Sequence[str]) -> tuple[Array, Array]:
        padded = [pad_tokens(e, self.info.config.tokens) for e in self._embed(texts)]
        tokens = np.stack([tokens for tokens, _ in padded]).astype(ml_dtypes.bfloat16)
        return jnp.asarray(tokens, jnp.float32), jnp.asarray(np.stack([mask for _, mask in padded]))

    def _build(self, spec: SamplerSpec):
        config, graph = self.info.config, graph_of(self.info.config.model)
        sampler = spec.build(config)

        def sample(params: Params, batch: dict[str, Array], empty: Empty, key: PRNGKeyArray):
            cond, model = conditioning(batch), bind(graph, params)
            shape = (*batch["controls"].shape[:2], self.tier.height, self.tier.width, 3)
            denoise = guided(model, spec.eta, *empty)
            return to_pixels(sampler.sample(denoise, cond, shape, key))

        return sample


def describe(checkpoint: Path, encoder: EncoderInfo) -> tuple[int, RunInfo]:
    """The last step that a run saved and what made it, without reading a parameter.

    Args:
        encoder: what will embed the actions.

    Raises:
        UsageError: if there is no checkpoint, or it was trained with another text encoder.
    """
    with Checkpoints(checkpoint, keep=None) as checkpoints:
        step = checkpoints.latest() or 0
        info = checkpoints.info(step)
    if encoder.digest != info.encoder.digest:
        raise UsageError(
            f"{checkpoint}: was trained with the text encoder {info.encoder.name!r} (digest"
            f" {info.encoder.digest[:12]}), but this is {encoder.name!r} (digest"
            f" {encoder.digest[:12]}); pass the --t5 that the table was prepared with"
        )
    return step, info
