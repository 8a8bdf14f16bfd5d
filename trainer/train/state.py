"""`TrainState`: what a training step changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from trainer.configs.config import TrainConfig
from trainer.model import ModelConfig, VideoUNet

Params = dict[str, Any]
"""Nested dictionaries of arrays, as `nnx` names them."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """A pytree.

    Attributes:
        step: optimiser steps done.
        params: of the U-Net.
        ema: their exponential moving average, which simulates.
        optimizer: Optax's state.
    """

    step: Int[Array, ""]
    params: Params
    ema: Params
    optimizer: optax.OptState


def graph_of(config: ModelConfig) -> nnx.GraphDef[VideoUNet]:
    """The U-Net without its parameters; allocates nothing."""
    return nnx.split(nnx.eval_shape(lambda: VideoUNet(config, rngs=nnx.Rngs(0))))[0]


def bind(graph: nnx.GraphDef[VideoUNet], params: Params) -> VideoUNet:
    """The U-Net with these parameters."""
    return nnx.merge(graph, nnx.State(params))


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Adam (Table 6: decays 0.9 and 0.99, learning rate 1e-4), with an optional linear warm-up and
    clipping of the gradients' global norm."""
    rate: optax.Schedule | float = config.learning_rate
    if config.warmup_steps:
        rate = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    steps = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    adam = optax.adamw(rate, b1=config.adam_b1, b2=config.adam_b2, weight_decay=config.weight_decay)
    return optax.chain(*steps, adam)


def init(config: TrainConfig) -> TrainState:
    """The state before the first step, a function of the config's seed. It can be traced."""
    model = VideoUNet(config.model, rngs=nnx.Rngs(config.seed))
    params = nnx.to_pure_dict(nnx.state(model))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=optimizer(config).init(params),
    )


def abstract(config: TrainConfig) -> TrainState:
    """The shapes and types of the state; allocates nothing."""
    return jax.eval_shape(lambda: init(config))


def ema_update(ema: Params, params: Params, decay: float) -> Params:
    """ema' = decay · ema + (1 − decay) · params, leaf by leaf."""
    return jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, ema, params)
