"""Laws of the samplers: with the exact denoiser of a Gaussian, they draw that Gaussian."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from schemas import UsageError
from tests.trainer import tiny
from trainer.diffusion import (
    AncestralSampler,
    CosineSchedule,
    DDIMSampler,
    DPMSolver,
    alpha_sigma,
    guided,
)
from trainer.diffusion.ancestral import posterior
from trainer.diffusion.clip import clipped
from trainer.model import Conditioning

SCHEDULE = CosineSchedule()
ALL = (AncestralSampler, DDIMSampler, DPMSolver)


def conditioning(b: int, t: int = 1, **changes) -> Conditioning:
    return dataclasses.replace(tiny.batch(b=b, t=t, h=1, w=2)[2], **changes)


def bayes(log_snr: float, log_snr_next: float, noisy: float, clean: float) -> tuple[float, float]:
    """Mean and variance of z_s given z_t and x, by the product of two Gaussians in float64."""
    squares = [1 / (1 + np.exp(-v)) for v in (log_snr, log_snr_next)]
    (at, as_), (vt, vs) = np.sqrt(squares), 1 - np.array(squares)
    step = at / as_
    added = vt - step**2 * vs
    variance = 1 / (1 / vs + step**2 / added)
    return variance * (as_ * clean / vs + step * noisy / added), variance


@pytest.mark.parametrize(("t", "s"), [(-18.0, -17.0), (-2.0, -1.5), (3.0, 4.0), (9.0, 9.1)])
def test_gamma_lies_between_the_two_closed_forms(t, s):
    mean, variance = bayes(t, s, 0.7, -0.4)
    args = (jnp.float32(0.7), jnp.float32(-0.4), jnp.float32(t), jnp.float32(s))
    found, lower = posterior(*args, 0.0)
    np.testing.assert_allclose([found, lower], [mean, variance], rtol=3e-3, atol=1e-7)
    # σ²_{t|s}, the variance of the forward step
    added = (1 - np.exp(t - s)) / (1 + np.exp(t))
    upper = posterior(*args, 1.0)[1]
    np.testing.assert_allclose(upper, added, rtol=1e-4)
    between = np.exp(0.9 * np.log(float(lower)) + 0.1 * np.log(float(upper)))
    np.testing.assert_allclose(posterior(*args, 0.1)[1], between, rtol=1e-4)


MEAN = np.array([0.2, -0.3, 0.1, 0.0, 0.4, -0.1])
ROOT = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0] * [
    0.5,
    0.4,
    0.3,
    0.2,
    0.1,
    0.6,
]
COVARIANCE = ROOT @ ROOT.T


def exact(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
    """E[ε | z] for frames of 1×2 pixels drawn from N(MEAN, COVARIANCE)."""
    alpha, sigma = alpha_sigma(log_snr[0])
    total = alpha**2 * COVARIANCE + sigma**2 * jnp.eye(6)
    away = noisy.reshape(-1, 6) - alpha * MEAN
    return (sigma * jnp.linalg.solve(total, away.T).T).reshape(noisy.shape)


def chain(steps: int, gamma: float) -> np.ndarray:
    """Covariance of what the sampler draws with `exact`: its recursion in float64, no samples."""
    t = np.arange(steps, -1, -1) / steps
    b = np.arctan(np.exp(-10.0))
    levels = -2 * np.log(np.tan((np.arctan(np.exp(10.0)) - b) * t + b))
    state = np.eye(6)
    for i, (now, after) in enumerate(itertools.pairwise(levels)):
        square, next_square = (1 / (1 + np.exp(-v)) for v in (now, after))
        kept = np.exp(now - after)
        clean = (
            np.sqrt(square)
            * COVARIANCE
            @ np.linalg.inv(square * COVARIANCE + (1 - square) * np.eye(6))
        )
        pull = kept * np.sqrt(next_square / square) * np.eye(6)
        pull = pull + (1 - kept) * np.sqrt(next_square) * clean
        fresh = (1 - kept) * (1 - next_square) ** (1 - gamma) * (1 - square) ** gamma
        last = i == steps - 1
        state = clean @ state @ clean.T if last else pull @ state @ pull.T + fresh * np.eye(6)
    return state


@pytest.mark.parametrize(("steps", "gamma"), [(256, 0.1), (64, 0.0), (64, 1.0)])
def test_with_the_exact_denoiser_it_draws_the_gaussian(steps, gamma):
    count = 8192
    sampler = AncestralSampler(steps=steps, gamma=gamma, clip="none")
    key, shape = jax.random.key(steps), (count, 1, 1, 2, 3)
    frames = jax.jit(lambda key: sampler.sample(exact, conditioning(1), shape, key))(key)
    drawn = np.asarray(frames, np.float64).reshape(count, 6)
    np.testing.assert_allclose(drawn.mean(0), MEAN, atol=4 * 0.6 / np.sqrt(count))
    wanted = chain(steps, gamma)
    np.testing.assert_allclose(np.cov(drawn.T), wanted, atol=5 * 0.36 * np.sqrt(2 / count))
    if steps == 256:
        np.testing.assert_allclose(wanted, COVARIANCE, atol=0.01)


def transport(sampler: DDIMSampler | DPMSolver) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of what a sampler without further noise makes of pure noise.

    The exact denoiser of a Gaussian is affine, so what zero and the six unit vectors become says
    all of it, and no sampling error is left.
    """
    start = jnp.concatenate([jnp.zeros((1, 6)), jnp.eye(6)]).reshape(7, 1, 1, 2, 3)
    ends = jax.jit(lambda x: sampler.from_noise(exact, conditioning(7), x))(start)
    ends = np.asarray(ends, np.float64).reshape(7, 6)
    columns = ends[1:] - ends[0]
    return ends[0], columns.T @ columns


def discretisation(kind, steps: int) -> tuple[float, float]:
    """Errors of mean and covariance with that many steps."""
    mean, covariance = transport(kind(steps=steps, clip="none"))
    return np.abs(mean - MEAN).max(), np.abs(covariance - COVARIANCE).max()


@pytest.mark.parametrize(
    ("kind", "steps", "tolerance"), [(DDIMSampler, 256, 0.005), (DPMSolver, 32, 0.005)]
)
def test_the_deterministic_samplers_carry_noise_onto_the_gaussian(kind, steps, tolerance):
    assert max(discretisation(kind, steps)) < tolerance
    count = 8192
    sampler, shape = kind(steps=steps, clip="none"), (count, 1, 1, 2, 3)
    frames = jax.jit(lambda key: sampler.sample(exact, conditioning(1), shape, key))(
        jax.random.key(steps)
    )
    drawn = np.asarray(frames, np.float64).reshape(count, 6)
    mean, covariance = transport(sampler)
    np.testing.assert_allclose(drawn.mean(0), mean, atol=4 * 0.6 / np.sqrt(count))
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=5 * 0.36 * np.sqrt(2 / count))


def test_one_is_of_first_order_and_the_other_of_nearly_second():
    for kind, order in ((DDIMSampler, 0.9), (DPMSolver, 1.5)):
        coarse, fine = (discretisation(kind, steps)[1] for steps in (64, 512))
        assert np.log2(coarse / fine) / 3 > order, kind
    assert discretisation(DPMSolver, 32)[1] < discretisation(DDIMSampler, 256)[1]


@pytest.mark.parametrize("kind", ALL)
def test_a_schedule_that_ends_early_leaves_no_noise(kind):
    """With the exact denoiser of one video, that video comes out."""
    schedule, video = CosineSchedule(log_snr_min=-8.0, log_snr_max=2.0), 0.3

    def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        alpha, sigma = alpha_sigma(log_snr[0])
        return (noisy - alpha * video) / sigma

    sampler = kind(steps=8, schedule=schedule, clip="none")
    drawn = sampler.sample(denoise, conditioning(2), (2, 1, 1, 2, 3), jax.random.key(0))
    np.testing.assert_allclose(drawn, video, atol=1e-5)


def wild(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
    return 3 * noisy


@pytest.mark.parametrize("kind", ALL)
def test_clipping_bounds_the_frames_and_a_key_is_a_video(kind):
    def draw(clip, key: int) -> Array:
        sampler = kind(steps=8, clip=clip)
        return sampler.sample(wild, conditioning(2), (2, 1, 1, 2, 3), jax.random.key(key))

    assert jnp.abs(draw("static", 0)).max() <= 1
    assert jnp.abs(draw("dynamic", 0)).max() <= 1
    assert jnp.abs(draw("none", 0)).max() > 1
    np.testing.assert_array_equal(draw("static", 0), draw("static", 0))
    assert (draw("none", 0) != draw("none", 1)).any()


def test_dynamic_clipping_scales_a_video_by_its_own_quantile():
    """The 0.995 quantile of 480 values, 479 of them 2, is 2; padded frames do not count."""
    frames = jnp.full((3, 2, 8, 10, 3), 2.0).at[0, 0, 0, 0, 0].set(-50.0).at[1].set(0.5)
    mask = jnp.array([[True, True], [True, True], [True, False]])
    frames = frames.at[2, 1].set(jnp.nan)
    out = clipped(frames, mask, "dynamic")
    wanted = jnp.ones((2, 8, 10, 3)).at[0, 0, 0, 0].set(-1.0)
    np.testing.assert_allclose(out[0], wanted, atol=1e-6)
    np.testing.assert_array_equal(out[1], frames[1])
    np.testing.assert_allclose(out[2, 0], 1, atol=1e-6)
    nobody = clipped(frames, jnp.zeros((3, 2), bool), "dynamic")
    np.testing.assert_array_equal(nobody[:2], jnp.clip(frames[:2], -1, 1))


@pytest.mark.parametrize("kind", ALL)
def test_without_guidance_a_sampler_draws_the_conditional_model(kind):
    """η = 0, bit for bit; and a model that no action moves is the same at any η."""
    empty = (jnp.zeros((8, 12)), jnp.arange(8) < 1)
    cond, shape, key = conditioning(3), (3, 1, 1, 2, 3), jax.random.key(0)

    def told(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        return noisy * (1 + 0.1 * cond.tokens.mean((1, 2)))[:, None, None, None, None]

    def draw(denoise) -> Array:
        return kind(steps=6, clip="none").sample(denoise, cond, shape, key)

    np.testing.assert_array_equal(draw(guided(told, 0.0, *empty)), draw(told))
    assert (draw(guided(told, 2.0, *empty)) != draw(told)).any()
    np.testing.assert_allclose(draw(guided(exact, 2.0, *empty)), draw(exact), atol=1e-3)


@pytest.mark.parametrize("kind", ALL)
def test_it_walks_the_schedule_from_noise_and_compiles_one_body(kind):
    traced, levels = [], []

    def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        traced.append(noisy.shape)
        jax.debug.callback(lambda v: levels.append(float(v)), log_snr[0], ordered=True)
        return noisy

    kind(steps=10).sample(denoise, conditioning(2), (2, 1, 1, 2, 3), jax.random.key(0))
    jax.effects_barrier()
    assert len(traced) == 1
    wanted = SCHEDULE.log_snr(jnp.arange(10, 0, -1) / 10)
    np.testing.assert_allclose(levels, wanted, atol=1e-4)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"gamma": 1.5}, {"gamma": -0.1}])
def test_impossible_samplers_are_refused(changes):
    with pytest.raises(UsageError, match="sampler: "):
        AncestralSampler(**changes)
    for kind in (DDIMSampler, DPMSolver):
        with pytest.raises(UsageError, match="0 steps"):
            kind(steps=0)
