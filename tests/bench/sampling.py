"""How few steps a fast sampler needs for what 256 ancestral ones give, on a trained toy.

Quality is the Fréchet distance, between videos that a sampler drew and real futures of the same
starts and actions, of Gaussians fitted to simple features of a video (`features`). All samplers get
the same starts, actions and keys, and take turns batch by batch. Seconds are the process's own, on
all its cores, so that what else the machine does is in none of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.bench import toy
from tests.bench.timing import Row, progress
from trainer.simulate import SamplerSpec
from trainer.train.state import bind, graph_of
from trainer.train.step import conditioning, to_pixels

_BATCH, _FUTURES, _RESAMPLED = 64, 8, 200
_WITHIN = 1.05
_SLOW = SamplerSpec(method="ancestral", steps=256)
_FAST = [SamplerSpec(method=method, steps=n) for method in ("ddim", "dpm") for n in (16, 8)]


class Drawn(NamedTuple):
    """A sampler's features `[n, f]` and seconds of each batch."""

    features: np.ndarray
    seconds: list[float]


def rows(cache: Path, samples: int = 384) -> Iterator[Row]:
    """A row for the best setting of each fast method."""
    rng = np.random.default_rng(1)
    begin = toy.starts(samples, rng)
    real = np.concatenate([features(toy.futures(begin, rng)[:, 1:]) for _ in range(_FUTURES)])
    other = features(toy.futures(begin, rng)[:, 1:])
    params = toy.trained(cache)
    drawn = _draw(params, begin, [_SLOW, *_FAST], rng)
    slow = drawn[_SLOW]
    base, floor = frechet(slow.features, real), frechet(other, real)
    progress(f"Fréchet distance to {len(real)} real futures: {floor:.4f} of {samples} real ones")
    progress(f"  {_name(_SLOW)}: {base:.4f}, {np.median(slow.seconds):.2f} s a batch of {_BATCH}")
    best: dict[str, tuple[SamplerSpec, float, float]] = {}
    for spec in _FAST:
        found = drawn[spec]
        ratio = frechet(found.features, real) / base
        noise = _noise(found.features, slow.features, real)
        seconds = np.median(found.seconds)
        progress(f"  {_name(spec)}: {ratio:.3f} of that, ±{noise:.3f} (bootstrap), {seconds:.2f} s")
        if ratio <= _WITHIN:  # steps fall, so the last that holds is the fewest
            best[spec.method] = (spec, ratio, noise)
    for spec, ratio, noise in best.values():
        taken = [float(np.median(d.seconds)) for d in (drawn[spec], slow)]
        yield Row(
            f"16-frame chunks, {spec.steps} steps of {spec.method}",
            "256 ancestral",
            f"{taken[0]:.2f} s",
            f"{taken[1]:.2f} s",
            f"{taken[1] / taken[0]:.1f}x",
            f"{ratio:.2f}±{noise:.2f} FD",
            "1 FD",
        )
    if not best:
        progress("no fast sampler is within 5% of ancestral")


def _draw(params, begin: toy.Starts, specs: list[SamplerSpec], rng) -> dict[SamplerSpec, Drawn]:
    graph = graph_of(toy.CONFIG.model)
    shape = (_BATCH, toy.FRAMES, toy.HEIGHT, toy.WIDTH, 3)

    def program(spec: SamplerSpec):
        @jax.jit
        def sample(batch, key):
            denoise, sampler = bind(graph, params), spec.build(toy.CONFIG)
            return to_pixels(sampler.sample(denoise, conditioning(batch), shape, key))

        return sample

    programs = {spec: program(spec) for spec in specs}
    found = {spec: Drawn(np.zeros((0, 0)), []) for spec in specs}
    videos: dict[SamplerSpec, list[np.ndarray]] = {spec: [] for spec in specs}
    seen = toy.futures(begin, rng)
    for i in range(0, len(seen), _BATCH):
        part = toy.Starts(*(field[i : i + _BATCH] for field in begin))
        batch = jax.tree.map(jnp.asarray, toy.batch_of(part, seen[i : i + _BATCH]))
        for spec, sample in programs.items():
            if not i:
                sample(batch, jax.random.key(i)).block_until_ready()  # compiles
            start = time.process_time()
            videos[spec].append(np.asarray(sample(batch, jax.random.key(i))))
            found[spec].seconds.append(time.process_time() - start)
        progress(f"sampled {i + _BATCH}")
    return {s: Drawn(features(np.concatenate(videos[s])), found[s].seconds) for s in specs}


def features(videos: np.ndarray) -> np.ndarray:
    """Of uint8 `[n, T, h, w, 3]`, in units of the pixels' range: the mean and the deviation over
    time of every 4×4 patch's brightness, the size of the change from frame to frame in each
    quarter of the video, the deviation within a frame, and 16 fixed random projections."""
    x = videos.astype(np.float64) / 255
    n, t, h, w, _ = x.shape
    grey = x.mean(-1)
    patches = grey.reshape(n, t, h // 4, 4, w // 4, 4).mean((3, 5)).reshape(n, t, -1)
    change = np.abs(np.diff(grey, axis=1)).mean((2, 3))
    quarters = np.stack([part.mean(1) for part in np.array_split(change, 4, 1)], 1)
    within = grey.std((2, 3)).mean(1, keepdims=True)
    directions = np.random.default_rng(0).normal(size=(grey[0].size, 16)) / grey[0].size ** 0.5
    projected = grey.reshape(n, -1) @ directions
    return np.concatenate([patches.mean(1), patches.std(1), quarters, within, projected], 1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2·(Σ_a^½ Σ_b Σ_a^½)^½) of features `[n, f]`."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    both = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    gap = np.square(a.mean(0) - b.mean(0)).sum()
    return float(gap + np.trace(first) + np.trace(second) - 2 * both)


def _noise(fast: np.ndarray, slow: np.ndarray, real: np.ndarray) -> float:
    """The deviation of the ratio of the two distances, over starts drawn anew."""
    rng, count = np.random.default_rng(2), len(fast)
    futures, ratios = real.reshape(_FUTURES, count, -1), []
    for _ in range(_RESAMPLED):
        pick = rng.integers(0, count, count)
        same = futures[:, pick].reshape(-1, real.shape[1])
        ratios.append(frechet(fast[pick], same) / frechet(slow[pick], same))
    return float(np.std(ratios))


def _name(spec: SamplerSpec) -> str:
    return f"{spec.steps} steps of {spec.method}"
