"""`Validation`: how well the averaged model predicts what it never trains on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from trainer.configs.config import TrainConfig
from trainer.data import Sample
from trainer.diffusion import drawn_low, frame_errors
from trainer.model import spread_of
from trainer.train.setup import Setup
from trainer.train.state import Params, bind, graph_of
from trainer.train.step import Batch, conditioning, in_compute, to_model

VALIDATION = "validation.jsonl"
_LEVELS = 5  # noise levels, at times 0.1, 0.3, …, 0.9
_SAMPLES = 64  # of each dataset, at most


class Validation:
    """The training loss on split "val", per dataset and per noise level.

    Always of the same samples, each at the same noise, so that values of one run can be compared;
    with text and controls, and no dropout. A dataset's samples are spread evenly over its split.

    Args:
        setup: what is trained; something is held out.
    """

    def __init__(self, setup: Setup):
        self._setup, config = setup, setup.config
        self.samples = {
            name: [numbered[i * len(numbered) // count] for i in range(count)]
            for name, numbered in setup.held_out.by_dataset.items()
            if (count := min(_SAMPLES, len(numbered)))
        }
        self._size = config.batch_size // config.accumulate
        self._errors = jax.jit(
            functools.partial(_errors, config, setup.layout.placement),
            out_shardings=setup.layout.replicated,
        )

    @property
    def missing(self) -> list[str]:
        """Datasets in the mixture of which nothing is held out."""
        return [name for name in self._setup.info.eras[-1].turns if name not in self.samples]

    def run(self, params: Params) -> dict[str, Any]:
        """The losses of parameters: `loss`, the mean over datasets; `by_source`, by name;
        `by_log_snr`, the mean over datasets at each level."""
        by_source, by_level = {}, []
        for name, samples in self.samples.items():
            sums, frames = np.zeros(_LEVELS), 0
            for first in range(0, len(samples), self._size):
                part = samples[first : first + self._size]
                errors, real = self._of(params, part, first)
                sums += errors[:, : len(part)].sum((1, 2))
                frames += real[: len(part)].sum()
            levels = sums / max(frames, 1)
            by_source[name] = float(levels.mean())
            by_level.append(levels)
        log_snr = np.asarray(self._setup.config.schedule.log_snr(jnp.asarray(_times())))
        means = np.mean(by_level, 0)
        return {
            "loss": float(means.mean()),
            "by_source": by_source,
            "by_log_snr": {
                f"{at:.3g}": float(mean) for at, mean in zip(log_snr, means, strict=True)
            },
        }

    def _of(self, params: Params, samples: Sequence[Sample], first: int):
        """Errors `[levels, b, t]` and the frames that are real, bool `[b, t]`; the last sample is
        repeated to the batch's size."""
        full = [*samples, *[samples[-1]] * (self._size - len(samples))]
        layout = self._setup.layout
        places = layout.places(self._size)
        batch = layout.put(self._setup.maker.batch([full[i] for i in places]), self._size)
        with jax.transfer_guard("allow"):
            errors, real = self._errors(params, batch, layout.put_whole(jnp.asarray(first)))
            return jax.device_get((errors, real))


def _times() -> np.ndarray:
    return (np.arange(_LEVELS, dtype=np.float32) + 0.5) / _LEVELS


def _errors(
    config: TrainConfig, placement, params: Params, batch: Batch, first: Int[Array, ""]
) -> tuple[Float[Array, "levels b t"], Array]:
    noise_key, low_key = jax.random.split(jax.random.key(config.seed))
    cond, frames = conditioning(batch), to_model(batch["frames"])
    if (factor := config.model.upscale) > 1:
        cond = drawn_low(cond, frames, factor, config.schedule, config.low_noise, low_key)
    # each sample's own, whatever batch it is in
    keys = jax.vmap(jax.random.fold_in, (None, 0))(noise_key, first + jnp.arange(len(frames)))
    noise = jax.vmap(lambda key: jax.random.normal(key, frames.shape[1:]))(keys)
    model = bind(graph_of(config.model), in_compute(params, config))
    spread = spread_of(config.model, cond)

    def denoise(noisy, log_snr, cond):
        return model(noisy, log_snr, cond, placement=placement)

    def at(time: Float[Array, ""]) -> Float[Array, "b t"]:
        times = jnp.full(frames.shape[:1], time)
        args = (denoise, config.schedule, frames, cond, times, noise, config.prediction, spread)
        return frame_errors(*args)

    return jax.lax.map(at, jnp.asarray(_times())), batch["frame_mask"]
