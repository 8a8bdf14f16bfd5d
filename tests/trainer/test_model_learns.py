"""A U-Net, the loss and an optimiser together do learn."""

from __future__ import annotations

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
