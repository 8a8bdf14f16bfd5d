"""Laws of schedule, loss, guidance and sampler, most of them against closed forms."""

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
    DenoiseFn,
    alpha_sigma,
    diffusion_loss,
    guided,
)
from trainer.diffusion.sampler import posterior
from trainer.model import Conditioning

SCHEDULE = CosineSchedule()


def conditioning(b: int, t: int = 1, **changes) -> Conditioning:
    return dataclasses.replace(tiny.batch(b=b, t=t, h=1, w=2)[2], **changes)


# the schedule


def test_the_schedule_runs_from_20_to_minus_20_and_is_even():
    levels = SCHEDULE.log_snr(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(levels, [20, 0, -20], atol=2e-5)
    times = jnp.linspace(0, 1, 1001)
    assert (jnp.diff(SCHEDULE.log_snr(times)) < 0).all()
    np.testing.assert_allclose(SCHEDULE.log_snr(times), -SCHEDULE.log_snr(1 - times), atol=1e-3)


@pytest.mark.parametrize(("low", "high"), [(-20.0, 20.0), (-10.0, 15.0), (-3.0, 8.0)])
def test_the_schedule_is_the_papers_formula_and_time_is_its_inverse(low, high):
    schedule = CosineSchedule(log_snr_min=low, log_snr_max=high)
    times = np.linspace(0, 1, 257)
    b = np.arctan(np.exp(-high / 2))
    a = np.arctan(np.exp(-low / 2)) - b
    levels = schedule.log_snr(jnp.asarray(times, jnp.float32))
    np.testing.assert_allclose(levels, -2 * np.log(np.tan(a * times + b)), atol=2e-4)
    np.testing.assert_allclose(schedule.time(levels), times, atol=1e-6)
    np.testing.assert_allclose(schedule.log_snr(schedule.time(levels)), levels, atol=1e-3)


def test_alpha_and_sigma_are_of_unit_variance_and_of_that_log_snr():
    log_snr = jnp.linspace(-20, 20, 41)
    alpha, sigma = alpha_sigma(log_snr)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)
    np.testing.assert_allclose(2 * (jnp.log(alpha) - jnp.log(sigma)), log_snr, atol=1e-4)


def test_a_schedule_upside_down_is_refused():
    with pytest.raises(UsageError, match=r"1\.0 is not below log_snr_max 0\.0"):
        CosineSchedule(log_snr_min=1.0, log_snr_max=0.0)


# the loss


def noise_of(frames: Array) -> DenoiseFn:
    """The denoiser that knows the frames: its noise is exact."""

    def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
        return (noisy - alpha * frames) / sigma

    return denoise


def zero(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
    return jnp.zeros_like(noisy)


def test_who_knows_the_frames_has_no_loss_and_who_says_zero_has_the_noises_variance():
    frames, _, cond = tiny.batch(b=64, t=4)
    frames = jnp.tanh(frames)
    # near λ = 20, ε is read off with a relative error of 1e-7 / σ
    schedule = CosineSchedule(log_snr_max=5.0)
    assert diffusion_loss(noise_of(frames), schedule, frames, cond, jax.random.key(0)) < 1e-8
    loss = diffusion_loss(zero, SCHEDULE, frames, cond, jax.random.key(0))
    assert loss == pytest.approx(1, abs=0.02)


def test_the_loss_tells_the_noise_level_and_draws_every_time():
    seen = []

    def spy(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        seen.append((noisy, log_snr))
        return noisy

    frames, _, cond = tiny.batch(b=512, t=1, h=4, w=4)
    frames = jnp.full_like(frames, 0.5)
    diffusion_loss(spy, SCHEDULE, frames, cond, jax.random.key(0))
    (noisy, log_snr), *_ = seen
    alpha, sigma = alpha_sigma(log_snr)
    np.testing.assert_allclose(noisy.mean((1, 2, 3, 4)), 0.5 * alpha, atol=0.6)
    np.testing.assert_allclose(noisy.mean(), 0.5 * alpha.mean(), atol=0.02)
    np.testing.assert_allclose(noisy.std((1, 2, 3, 4))[sigma < 0.1], sigma[sigma < 0.1], atol=0.05)
    quartiles = np.quantile(SCHEDULE.time(log_snr), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quartiles, [0, 0.25, 0.5, 0.75, 1], atol=0.08)


@pytest.mark.parametrize("other", [5.0, np.nan])
def test_the_loss_does_not_see_padded_frames(other):
    frames, _, cond = tiny.batch(b=3, t=4)
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    cond = dataclasses.replace(cond, frame_mask=mask)
    real = mask[:, :, None, None, None]

    def run(frames: Array) -> tuple[Array, Array]:
        def of(scale: Array) -> Array:
            def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
                return jnp.where(real, scale * noisy, other)

            return diffusion_loss(denoise, SCHEDULE, frames, cond, jax.random.key(1))

        return jax.value_and_grad(of)(jnp.float32(0.3))

    value, grad = run(frames)
    np.testing.assert_array_equal(run(jnp.where(real, frames, other)), (value, grad))
    assert np.isfinite(value) and grad != 0


def test_every_real_frame_weighs_the_same():
    """The loss is the mean over real frames of the batch, not a mean of the videos' means."""
    frames, _, cond = tiny.batch(b=2, t=4)
    errors = jnp.array([[1.0, 2, 9, 9], [3, 4, 5, 6]])

    def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        exact = noise_of(frames)(noisy, log_snr, cond)
        return exact + jnp.sqrt(errors)[:, :, None, None, None]

    schedule = CosineSchedule(log_snr_max=5.0)
    mask = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
    cond = dataclasses.replace(cond, frame_mask=mask)
    masked = jnp.where(mask[:, :, None, None, None], frames, 0)
    loss = diffusion_loss(denoise, schedule, masked, cond, jax.random.key(0))
    assert loss == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 6, rel=1e-4)
    nobody = dataclasses.replace(cond, frame_mask=jnp.zeros_like(mask))
    assert diffusion_loss(denoise, schedule, frames, nobody, jax.random.key(0)) == 0


# guidance


def test_guidance_is_the_papers_formula_and_one_call():
    unet = tiny.model()
    noisy, log_snr, cond = tiny.batch()
    empty = (0.1 * jnp.ones((5, 12)), jnp.arange(5) < 1)
    calls = []

    def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        calls.append(noisy.shape[0])
        return tiny.predict(unet, noisy, log_snr, cond)

    without = dataclasses.replace(
        cond,
        tokens=jnp.broadcast_to(empty[0], cond.tokens.shape),
        token_mask=jnp.broadcast_to(empty[1], cond.token_mask.shape),
        control_mask=jnp.zeros_like(cond.control_mask),
    )
    conditional = denoise(noisy, log_snr, cond)
    unconditional = denoise(noisy, log_snr, without)
    assert jnp.abs(conditional - unconditional).max() > 1e-3
    calls.clear()
    for eta in (0.5, 2.0):
        found = guided(denoise, eta, *empty)(noisy, log_snr, cond)
        wanted = (1 + eta) * conditional - eta * unconditional
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert calls == [4, 4]
    np.testing.assert_array_equal(guided(denoise, 0.0, *empty)(noisy, log_snr, cond), conditional)
    assert calls == [4, 4, 2]


# the sampler


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
        state = pull @ state @ pull.T + (i < steps - 1) * fresh * np.eye(6)
    return state


@pytest.mark.parametrize(("steps", "gamma"), [(256, 0.1), (64, 0.0), (64, 1.0)])
def test_with_the_exact_denoiser_it_draws_the_gaussian(steps, gamma):
    count = 8192
    sampler = AncestralSampler(steps=steps, gamma=gamma, clip=False)
    key, shape = jax.random.key(steps), (count, 1, 1, 2, 3)
    frames = jax.jit(lambda key: sampler.sample(exact, conditioning(1), shape, key))(key)
    drawn = np.asarray(frames, np.float64).reshape(count, 6)
    np.testing.assert_allclose(drawn.mean(0), MEAN, atol=4 * 0.6 / np.sqrt(count))
    wanted = chain(steps, gamma)
    np.testing.assert_allclose(np.cov(drawn.T), wanted, atol=5 * 0.36 * np.sqrt(2 / count))
    if steps == 256:
        np.testing.assert_allclose(wanted, COVARIANCE, atol=0.01)


def test_clipping_bounds_the_frames_and_a_key_is_a_video():
    def wild(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        return 3 * noisy

    def draw(clip: bool, key: int) -> Array:
        sampler = AncestralSampler(steps=8, clip=clip)
        return sampler.sample(wild, conditioning(2), (2, 1, 1, 2, 3), jax.random.key(key))

    assert jnp.abs(draw(True, 0)).max() <= 1
    assert jnp.abs(draw(False, 0)).max() > 1
    np.testing.assert_array_equal(draw(True, 0), draw(True, 0))
    assert (draw(True, 0) != draw(True, 1)).any()


def test_it_walks_the_schedule_from_noise_and_compiles_one_body():
    traced, levels = [], []

    def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        traced.append(noisy.shape)
        jax.debug.callback(lambda v: levels.append(float(v)), log_snr[0], ordered=True)
        return noisy

    sampler = AncestralSampler(steps=10)
    sampler.sample(denoise, conditioning(2), (2, 1, 1, 2, 3), jax.random.key(0))
    jax.effects_barrier()
    assert len(traced) == 1
    wanted = SCHEDULE.log_snr(jnp.arange(10, 0, -1) / 10)
    np.testing.assert_allclose(levels, wanted, atol=1e-4)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"gamma": 1.5}, {"gamma": -0.1}])
def test_impossible_samplers_are_refused(changes):
    with pytest.raises(UsageError, match="sampler: "):
        AncestralSampler(**changes)
