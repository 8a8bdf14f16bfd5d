"""Laws of schedule, loss and guidance, most of them against closed forms."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from schemas import UsageError
from tests.trainer import tiny
from trainer.diffusion import (
    CosineSchedule,
    DenoiseFn,
    alpha_sigma,
    diffusion_loss,
    guided,
)
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


@pytest.mark.parametrize("shift", [-3.0, 2.0])
def test_a_shift_moves_the_middle_of_the_schedule_and_leaves_its_ends(shift):
    schedule = CosineSchedule(log_snr_min=-10, log_snr_max=6, shift=shift)
    times = jnp.linspace(0, 1, 1001)
    levels = schedule.log_snr(times)
    np.testing.assert_allclose(levels[jnp.array([0, -1])], [6, -10], atol=1e-4)
    assert (jnp.diff(levels) < 0).all()
    np.testing.assert_allclose(schedule.time(levels), times, atol=1e-6)
    # the formula is λ - shift's, whose slope is least at 0
    assert abs(levels[jnp.abs(jnp.diff(levels)).argmin()] - shift) < 0.2


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


@pytest.mark.parametrize("spread", [0.2, 1.0, 3.0, jnp.tile(jnp.array([0.1, 2.0]), 32)])
def test_all_noise_levels_are_equally_hard_in_units_of_what_is_to_be_learned(spread):
    """The best guess that is linear in the noisy frames has a loss of 1, at every level."""
    frames, _, cond = tiny.batch(b=64, t=4)
    each = jnp.reshape(jnp.asarray(spread), (-1, 1, 1, 1, 1))

    def linear(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
        return noisy * sigma / ((alpha * each) ** 2 + sigma**2)

    for low, high in ((-10.0, -5.0), (-1.0, 1.0), (3.0, 5.0)):
        schedule = CosineSchedule(log_snr_min=low, log_snr_max=high)
        loss = diffusion_loss(
            linear, schedule, each * frames, cond, jax.random.key(0), "velocity", spread
        )
        assert loss == pytest.approx(1, abs=0.05)


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


def test_the_loss_in_velocity_is_the_error_of_velocity():
    frames, _, cond = tiny.batch(b=16, t=2)
    frames, schedule = jnp.tanh(frames), CosineSchedule(log_snr_min=-6.0, log_snr_max=6.0)

    def denoise(noisy: Array, log_snr: Array, cond: Conditioning, /) -> Array:
        """The noise that follows from v + 0.3."""
        alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
        velocity = (alpha * noisy - frames) / sigma  # α·ε - σ·x, as α·z - x = σ·(α·ε - σ·x)
        return sigma * noisy + alpha * (velocity + 0.3)

    key = jax.random.key(0)
    loss = diffusion_loss(denoise, schedule, frames, cond, key, "velocity")
    assert loss == pytest.approx(0.09, rel=1e-3)
    alpha = alpha_sigma(schedule.log_snr(jax.random.uniform(jax.random.split(key)[0], (16,))))[0]
    in_noise = diffusion_loss(denoise, schedule, frames, cond, key)
    assert in_noise == pytest.approx(0.09 * float(jnp.square(alpha).mean()), rel=1e-3)


# guidance


def test_guidance_is_the_papers_formula_and_one_call():
    unet = tiny.model()
    noisy, log_snr, cond = tiny.batch()
    empty = (0.1 * jnp.ones((8, 12)), jnp.arange(8) < 1)
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
