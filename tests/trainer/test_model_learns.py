"""A U-Net, the loss and an optimiser together do learn."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from tests.trainer import tiny
from trainer.diffusion import CosineSchedule, diffusion_loss
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
    print(losses[:40].mean(), losses[-40:].mean())
    assert losses[-40:].mean() < 0.6 * losses[:40].mean()
