"""A U-Net, the loss and an optimiser together do learn."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from tests.trainer import tiny
from trainer.diffusion import CosineSchedule, alpha_sigma, diffusion_loss
from trainer.model import VideoUNet


def test_it_learns_one_batch_by_heart():
    graph, params = nnx.split(VideoUNet(tiny.config(channels=16, cond_width=32), rngs=nnx.Rngs(0)))
    _, _, cond = tiny.batch(h=12, w=20)
    frames = jnp.tanh(tiny.batch(h=12, w=20, seed=3)[0])
    adam = optax.adam(3e-3)

    @jax.jit
    def train(params, keys):
        def step(carry, key):
            params, state = carry
            loss, grads = jax.value_and_grad(
                lambda p: diffusion_loss(nnx.merge(graph, p), CosineSchedule(), frames, cond, key)
            )(params)
            updates, state = adam.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return jax.lax.scan(step, (params, adam.init(params)), keys)[1]

    losses = train(params, jax.random.split(jax.random.key(0), 200))
    assert losses[-40:].mean() < 0.4
    assert losses[-40:].mean() < 0.6 * losses[:40].mean()


def test_a_new_model_predicts_what_the_input_alone_tells_of_the_noise():
    model = VideoUNet(tiny.config(), rngs=nnx.Rngs(0))
    noisy, log_snr, cond = tiny.batch()
    real = cond.frame_mask[:, :, None, None, None]
    sigma = alpha_sigma(log_snr)[1][:, None, None, None, None]
    np.testing.assert_array_equal(model(noisy, log_snr, cond), jnp.where(real, sigma * noisy, 0))


def test_a_new_model_of_changes_expects_the_newest_frame_again():
    """With a history its noise is the best linear guess; without one, it is the model's above."""
    noisy, log_snr, cond = tiny.batch()
    cond = dataclasses.replace(cond, history_mask=jnp.array([[True, True], [True, False]]))
    model = VideoUNet(tiny.config(residual=0.2), rngs=nnx.Rngs(0))
    alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
    scale = (0.2 * alpha) ** 2 + sigma**2
    changed = sigma / scale * (noisy - alpha * cond.history[:, -1:])
    found = model(noisy, log_snr, cond)
    np.testing.assert_allclose(found[0], changed[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], (sigma * noisy)[1], rtol=1e-5, atol=1e-6)


def test_a_model_of_changes_is_the_paper_s_where_there_is_no_history():
    noisy, log_snr, cond = tiny.batch()
    cond = dataclasses.replace(cond, history_mask=jnp.zeros_like(cond.history_mask))
    found, wanted = (tiny.predict(tiny.model(residual=s), noisy, log_snr, cond) for s in (0.2, 0.0))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
