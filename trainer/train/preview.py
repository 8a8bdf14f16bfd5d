"""`Preview`: what the averaged model makes of held-out starts, beside what happened."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from trainer.configs.config import TrainConfig
from trainer.data import Sample, Samples
from trainer.diffusion import DPMSolver, guided, shrunk, with_low
from trainer.model.placement import DATA, Placement
from trainer.train.setup import Setup
from trainer.train.state import Params, bind, graph_of
from trainer.train.step import Batch, Empty, conditioning, in_compute, to_model, to_pixels

_COUNT = 4  # videos
_STEPS, _ETA = 16, 1.0  # of DPM-Solver++(2M), and guidance
_LOW_NOISE = 0.1  # on what a super-resolution model refines, as `SamplerSpec` has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A start of split "val" and what follows it.

    Attributes:
        key: `dataset/episode_id/step`.
        action: in words.
        fps: frames a second; 1 of a picture.
        truth, drawn: uint8 `[n, h, w, 3]`, both with the history before them.
    """

    key: str
    action: str
    fps: float
    truth: np.ndarray
    drawn: np.ndarray


class Preview:
    """A few videos, always of the same starts and from the same noise, so that those of one run can
    be compared. Datasets take turns.

    Args:
        setup: what is trained; something is held out.
        empty: the empty action, on every device.
    """

    def __init__(self, setup: Setup, empty: Empty):
        self._empty, layout = empty, setup.layout
        samples = list(itertools.islice(_in_turns(setup.held_out), _COUNT))
        self._chunks = setup.table.chunks([sample.row for sample in samples])
        data = layout.mesh.shape[DATA]
        size = -(-len(samples) // data) * data  # every device has as many
        mine = [samples[place % len(samples)] for place in layout.places(size)]
        self._batch = layout.put(setup.maker.batch(mine), size)
        self._draw = jax.jit(
            functools.partial(_draw, setup.config, layout.placement, len(samples)),
            out_shardings=layout.replicated,
        )

    def pairs(self, params: Params) -> list[Pair]:
        """The videos of these parameters."""
        made = jax.device_get(self._draw(params, self._batch, self._empty))
        found = []
        for i, chunk in enumerate(self._chunks):
            one = {name: value[i] for name, value in made.items()}
            before, real = one["history"][one["history_mask"]], one["frame_mask"]
            truth, drawn = (np.concatenate([before, one[x][real]]) for x in ("frames", "drawn"))
            told = {"key": chunk.key, "action": chunk.text, "fps": chunk.fps or 1.0}
            found.append(Pair(**told, truth=truth, drawn=drawn))
        return found


def _in_turns(samples: Samples) -> Iterable[Sample]:
    """The first of each dataset, the second of each, and so on."""
    numbered = samples.by_dataset.values()
    for i in range(max(map(len, numbered))):
        yield from (of_one[i] for of_one in numbered if i < len(of_one))


def _draw(
    config: TrainConfig,
    placement: Placement,
    count: int,
    params: Params,
    batch: Batch,
    empty: Empty,
) -> Batch:
    """The first `count` examples of a batch, with their "drawn" frames."""
    cond, frames = conditioning(batch), to_model(batch["frames"])
    key, low_key = jax.random.split(jax.random.key(config.seed))
    if (factor := config.model.upscale) > 1:
        level = config.schedule.log_snr(jnp.full(frames.shape[:1], _LOW_NOISE))
        cond = with_low(cond, shrunk(frames, factor), level, low_key)
    model = bind(graph_of(config.model), in_compute(params, config))

    def denoise(noisy, log_snr, cond):
        return model(noisy, log_snr, cond, placement=placement)

    sampler = DPMSolver(steps=_STEPS, schedule=config.schedule, clip=config.clip)
    drawn = to_pixels(sampler.sample(guided(denoise, _ETA, *empty), cond, frames.shape, key))
    found = {name: batch[name] for name in ("history", "history_mask", "frames", "frame_mask")}
    return {name: value[:count] for name, value in (found | {"drawn": drawn}).items()}
