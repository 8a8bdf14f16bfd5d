"""`train_step`: the one function that training compiles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from trainer.configs.config import TrainConfig
from trainer.diffusion import diffusion_loss, drawn_low
from trainer.model import Conditioning, VideoUNet, drop_action, spread_of
from trainer.model.placement import ANYWHERE, Placement
from trainer.train.state import Params, TrainState, bind, ema_update, optimizer

Batch = Mapping[str, Array]
Metrics = dict[str, Array]
Empty = tuple[Float[Array, "l d"], Bool[Array, " l"]]
"""The empty action: padded embedding of "" and its mask."""


def to_model(frames: UInt8[Array, "*s h w 3"]) -> Float[Array, "*s h w 3"]:
    """Pixels 0..255 as float32 in [-1, 1]."""
    return frames.astype(jnp.float32) / 127.5 - 1.0


def to_pixels(frames: Float[Array, "*s h w 3"]) -> UInt8[Array, "*s h w 3"]:
    """The inverse of `to_model`; values outside [-1, 1] are clipped."""
    return jnp.round((jnp.clip(frames, -1, 1) + 1) * 127.5).astype(jnp.uint8)


def conditioning(batch: Batch) -> Conditioning:
    """What a batch of examples conditions on, on the device.

    Args:
        batch: as `ExampleMaker` describes it, with a leading dimension.
    """
    mask = batch["history_mask"]
    history = jnp.where(mask[..., None, None, None], to_model(batch["history"]), 0)
    return Conditioning(
        history=history,
        history_mask=mask,
        tokens=batch["tokens"].astype(jnp.float32),
        token_mask=batch["token_mask"],
        controls=batch["controls"],
        control_mask=batch["control_mask"],
        frame_mask=batch["frame_mask"],
    )


def keys_at(seed: int, step: Int[Array, ""]) -> PRNGKeyArray:
    """Keys for a step's action dropout, noise, dropout, low-resolution video and single actions; a
    function of (seed, step) alone, so that a resumed run draws what the straight one drew."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), step), 5)


def in_compute(params: Params, config: TrainConfig) -> Params:
    """The parameters with every kernel in the type that the model computes in.

    A layer casts its kernel anyway; done here, where it is still spread over the devices, what they
    exchange is half as large in bfloat16. That holds for the gradients too, which become float32
    when they have been summed over the devices.
    """
    kernel = jax.tree_util.DictKey("kernel")
    return jax.tree.map_with_path(
        lambda path, leaf: leaf.astype(config.model.compute) if path[-1] == kernel else leaf,
        params,
    )


def dropped_action(cond: Conditioning, key: PRNGKeyArray, rate: float, empty: Empty):
    """The conditioning with the action of a random share of samples replaced by the empty one.

    The history stays: the unconditional branch of guidance is p(o_t | h_{t-1}) (UniSim, appendix).
    """
    drop = jax.random.bernoulli(key, rate, (cond.history.shape[0],))
    return drop_action(cond, drop, *empty)


def single_action(cond: Conditioning, key: PRNGKeyArray, rate: float, empty: Empty):
    """The conditioning with a random share of the actions told in one way only: those with text and
    controls lose the one or the other. An action without controls keeps its text."""
    loses, text = jax.random.uniform(key, (2, cond.history.shape[0]))
    loses = (loses < rate) & cond.control_mask.any(-1)
    text = loses & (text < 0.5)
    wordless = drop_action(cond, text, *empty)
    return dataclasses.replace(wordless, control_mask=cond.control_mask & ~(loses & ~text)[:, None])


def train_step(
    config: TrainConfig, graph: nnx.GraphDef[VideoUNet], placement: Placement = ANYWHERE
) -> Callable[[TrainState, Batch, Empty], tuple[TrainState, Metrics]]:
    """One optimiser step as a pure function of state, batch and the empty action, not yet compiled.

    It returns the next state and float32 scalars: `loss`, the prediction error averaged over real
    frames, and `grad_norm`, the gradients' global norm before clipping.
    """
    adam, losses = optimizer(config), _loss_of(config, graph, placement)

    def step(state: TrainState, batch: Batch, empty: Empty) -> tuple[TrainState, Metrics]:
        keys = keys_at(config.seed, state.step)
        if config.accumulate == 1:
            loss, grads = jax.value_and_grad(losses)(state.params, batch, empty, keys)
        else:
            loss, grads = _accumulated(losses, config.accumulate, state.params, batch, empty, keys)
        updates, moments = adam.update(grads, state.optimizer, state.params)
        params = cast(Params, optax.apply_updates(state.params, updates))
        after = TrainState(
            step=state.step + 1,
            params=params,
            ema=ema_update(state.ema, params, config.ema_decay),
            optimizer=moments,
        )
        return after, {"loss": loss, "grad_norm": optax.tree.norm(grads)}

    return step


def _loss_of(config: TrainConfig, graph: nnx.GraphDef[VideoUNet], placement: Placement):
    """The loss of a batch as a function of the parameters."""
    schedule = config.schedule

    def loss_of(params: Params, batch: Batch, empty: Empty, keys: PRNGKeyArray) -> Array:
        action_key, noise_key, dropout_key, low_key, single_key = keys
        cond = conditioning(batch)
        if config.single_action:
            cond = single_action(cond, single_key, config.single_action, empty)
        cond = dropped_action(cond, action_key, config.action_dropout, empty)
        frames = to_model(batch["frames"])
        if (factor := config.model.upscale) > 1:
            cond = drawn_low(cond, frames, factor, schedule, config.low_noise, low_key)
        spread = spread_of(config.model, cond)
        model = bind(graph, in_compute(params, config))

        def denoise(noisy, log_snr, cond):
            return model(noisy, log_snr, cond, dropout_key=dropout_key, placement=placement)

        return diffusion_loss(denoise, schedule, frames, cond, noise_key, config.prediction, spread)

    return loss_of


def _accumulated(losses, parts: int, params: Params, batch: Batch, empty: Empty, keys):
    """Loss and gradient of a batch that is seen in parts, one after another, so that only one's
    activations are held. Every real frame has the same weight, whatever part it is in; each part
    draws noise of its own.

    Sample i is in part i mod `parts`: so every device has its share of every part.
    """
    split = {name: _split(value, parts) for name, value in batch.items()}
    real = split["frame_mask"].sum((1, 2)).astype(jnp.float32)
    weights = real / jnp.maximum(real.sum(), 1)

    def add(total, part):
        index, weight, piece = part
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        found = jax.value_and_grad(losses)(params, piece, empty, own)
        return jax.tree.map(lambda a, b: a + weight * b, total, found), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zero, (jnp.arange(parts), weights, split))[0]


def _split(value: Array, parts: int) -> Array:
    """`[b, …]` as `[parts, b / parts, …]`."""
    return jnp.moveaxis(value.reshape(-1, parts, *value.shape[1:]), 1, 0)
