"""`Simulator`: trained checkpoints that answer an action with frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

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
    DDIMSampler,
    DPMSolver,
    Sampler,
    guided,
    shrunk,
    with_low,
)
from trainer.simulate.stage import check_cascade, load_stage
from trainer.train.state import Params, bind, graph_of
from trainer.train.step import Empty, conditioning, to_pixels

Embed = Callable[[Sequence[str]], list[np.ndarray]]
"""Texts -> their embeddings, bfloat16 `[tokens, width]` each, real tokens only."""


class Controls(NamedTuple):
    """Actions as motions, for b videos.

    Attributes:
        bins: int `[b, T, S]`, of `schemas.controls`; row i is the motion that leads to frame i.
        mask: bool `[b, S]`, the slots that exist.
    """

    bins: np.ndarray
    mask: np.ndarray


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
        low_noise: a super-resolution model sees what it refines noised to this time of the
            schedule. Unpublished, so ours to choose.
    """

    method: Method = "ancestral"
    steps: int = 32
    eta: float = 1.0
    gamma: float = 0.1
    low_noise: float = 0.1

    def __post_init__(self):
        if not np.isfinite(self.eta):
            raise UsageError(f"--eta is {self.eta}, wanted a number")
        if not 0 <= self.low_noise <= 1:
            raise UsageError(f"--low-noise is {self.low_noise}, wanted 0..1")

    def build(self, config: TrainConfig) -> Sampler:
        """The sampler of a model that was trained with `config`."""
        schedule = config.schedule
        if self.method == "ddim":
            return DDIMSampler(steps=self.steps, schedule=schedule, clip=config.clip)
        if self.method == "dpm":
            return DPMSolver(steps=self.steps, schedule=schedule, clip=config.clip)
        return AncestralSampler(
            steps=self.steps, gamma=self.gamma, schedule=schedule, clip=config.clip
        )


class Simulator:
    """The moving averages of one run, or of a cascade of runs, compiled once for each number of
    videos.

    A cascade is a base model and super-resolution models after it, each refining what the one
    before made; all are told the same history, at their own size, and the same action.

    Args:
        checkpoint: folder of a run; its last checkpoint is taken.
        embed: embeds action texts; given as a function, so that this package needs no text model.
        encoder: what `embed` is.
        sampler: how frames are drawn.
        finer: folders of super-resolution runs, coarsest first.

    Raises:
        UsageError: if there is no checkpoint, it was trained with another text encoder, or the runs
            do not form a cascade.
    """

    def __init__(
        self,
        checkpoint: Path,
        embed: Embed,
        encoder: EncoderInfo,
        sampler: SamplerSpec | None = None,
        finer: Sequence[Path] = (),
    ):
        self._stages = [load_stage(folder, encoder) for folder in (checkpoint, *finer)]
        base, last = self._stages[0], self._stages[-1]
        check_cascade(self._stages)
        self.step_trained, self.info = base.step, base.info
        self.tier = Tier.parse(last.info.config.tier)
        self.frames = base.info.config.frames
        self.history = history_offsets(
            base.info.config.history, base.info.config.model.history_frames
        )
        self._embed = embed
        self._empty = self._tokens([EMPTY])
        self._sample = jax.jit(self._build(sampler or SamplerSpec()))

    def step(
        self,
        history: np.ndarray,
        history_mask: np.ndarray,
        actions: Sequence[str],
        key: Array,
        controls: Controls | None = None,
    ) -> np.ndarray:
        """What happens next, for b videos at once.

        Args:
            history: uint8 `[b, k, h, w, 3]`, oldest first, at the offsets `self.history`, at the
                size of the finest model.
            history_mask: bool `[b, k]`, the frames that exist.
            actions: b texts; may be empty where there are controls.
            key: of the noise; equal keys give equal frames.
            controls: the motion to each frame; None for actions in words alone.

        Returns:
            uint8 `[b, T, h, w, 3]`.

        Raises:
            UsageError: if an action is empty.
        """
        b, t = len(actions), self.frames
        slots = np.zeros((b, NUM_SLOTS), bool) if controls is None else controls.mask
        if not all(text.strip() or slots[i].any() for i, text in enumerate(actions)):
            raise UsageError("an --action is empty; say what is done, as in 'push the red block'")
        tokens, token_mask = self._tokens(actions)
        batch = {
            "history": jnp.asarray(history),
            "history_mask": jnp.asarray(history_mask),
            "tokens": tokens,
            "token_mask": token_mask,
            "controls": jnp.asarray(
                np.zeros((b, t, NUM_SLOTS), np.int32) if controls is None else controls.bins
            ),
            "control_mask": jnp.asarray(slots),
            "frame_mask": jnp.ones((b, t), bool),
        }
        empty = (self._empty[0][0], self._empty[1][0])
        params = [stage.params for stage in self._stages]
        return np.asarray(self._sample(params, batch, empty, key))

    @property
    def compilations(self) -> int:
        """How many times the step has been compiled: once for each number of videos."""
        return self._sample._cache_size()  # type: ignore[attr-defined]

    def _tokens(self, texts: Sequence[str]) -> tuple[Array, Array]:
        padded = [pad_tokens(e, self.info.config.tokens) for e in self._embed(texts)]
        tokens = np.stack([tokens for tokens, _ in padded]).astype(ml_dtypes.bfloat16)
        return jnp.asarray(tokens, jnp.float32), jnp.asarray(np.stack([mask for _, mask in padded]))

    def _build(self, spec: SamplerSpec):
        stages = [(s.info.config, graph_of(s.info.config.model)) for s in self._stages]
        finest = self.tier

        def sample(
            params: list[Params], batch: dict[str, Array], empty: Empty, key: PRNGKeyArray
        ) -> Array:
            video: Array | None = None
            for i, (config, graph) in enumerate(stages):
                tier = Tier.parse(config.tier)
                cond = conditioning(batch)
                history = shrunk(cond.history, finest.height // tier.height)
                cond = dataclasses.replace(cond, history=history)
                own_key, low_key = (jax.random.fold_in(key, 2 * i + n) for n in (0, 1))
                if video is not None:
                    level = config.schedule.log_snr(jnp.full(video.shape[:1], spec.low_noise))
                    cond = with_low(cond, video, level, low_key)
                shape = (*batch["controls"].shape[:2], tier.height, tier.width, 3)
                denoise = guided(bind(graph, params[i]), spec.eta, *empty)
                made = spec.build(config).sample(denoise, cond, shape, own_key)
                video = jnp.clip(made, -1, 1)
            assert video is not None
            return to_pixels(video)

        return sample
