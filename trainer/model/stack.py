"""`Stack`: the equal blocks of one level, one after another, with their parameters stacked."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from trainer.model.attention import ActionAttention, SpatialAttention, TemporalAttention
from trainer.model.config import Heads, ModelConfig, Remat
from trainer.model.convolution import TemporalConvolution
from trainer.model.layers import ResBlock
from trainer.model.placement import Placement


class Context(NamedTuple):
    """What every block is told.

    Attributes:
        embedding: noise level and action, one vector per frame.
        tokens, mask: of the action.
        frame_mask: the frames that are real.
    """

    embedding: Float[Array, "b t e"]
    tokens: Float[Array, "b m e"]
    mask: Bool[Array, "b m"]
    frame_mask: Bool[Array, "b t"]


class Block(nnx.Module):
    """A residual block; at a level that has attention, spatial and action attention; and what lets
    frames see each other: temporal attention there, or temporal convolution everywhere."""

    def __init__(
        self, inputs: int, outputs: int, heads: Heads, config: ModelConfig, *, rngs: nnx.Rngs
    ):
        self.res = ResBlock(inputs, outputs, config, rngs=rngs)
        self.looks_around = heads.space > 0
        if self.looks_around:
            self.spatial = SpatialAttention(outputs, heads.space, config, rngs=rngs)
            self.action = ActionAttention(outputs, heads.space, config, rngs=rngs)
        if config.temporal == "convolution":
            self.temporal = TemporalConvolution(outputs, config, rngs=rngs)
        else:
            attends = heads.time > 0
            self.temporal = (
                TemporalAttention(outputs, heads.time, config, rngs=rngs) if attends else None
            )

    def __call__(
        self,
        x: Float[Array, "b t h w i"],
        context: Context,
        placement: Placement,
        key: jax.Array | None,
    ) -> Float[Array, "b t h w o"]:
        x = placement.frames(self.res(x, context.embedding, key))
        if self.looks_around:
            x = self.spatial(x)
            x = placement.frames(self.action(x, context.tokens, context.mask))
        if isinstance(self.temporal, TemporalConvolution):
            x = self.temporal(x, context.frame_mask)
        elif self.temporal is not None:
            x = self.temporal(x, context.frame_mask, placement)
        return placement.frames(x)


class Stack(nnx.Module):
    """`count` blocks of equal shape. Parameters have a leading dimension `count`.

    With `config.scan` they run in one `lax.scan`, so XLA compiles one of them, not `count`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        heads: Heads,
        count: int,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
    ):
        @nnx.split_rngs(splits=count)
        @nnx.vmap
        def make(rngs: nnx.Rngs) -> Block:
            return Block(inputs, outputs, heads, config, rngs=rngs)

        self.blocks = make(rngs)
        self.count, self.scan = count, config.scan
        self.remat: Remat = config.remat

    def __call__(
        self,
        x: Float[Array, "b t h w c"],
        context: Context,
        placement: Placement,
        key: jax.Array | None,
        skips: Float[Array, "n b t h w c"] | None = None,
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "n b t h w c"]]:
        """The output, and that of every block.

        Args:
            key: draws the dropout; None leaves it off.
            skips: what block i takes beside its input on the channel axis.
        """
        graph, params = nnx.split(self.blocks)

        def run(x: Array, each: tuple) -> tuple[Array, Array]:
            params, skip, index = each
            block = nnx.merge(graph, params)
            if skip is not None:
                x = jnp.concatenate([x, skip], -1)
            own = None if key is None else jax.random.fold_in(key, index)
            x = block(x, context, placement, own)
            return x, x

        body = _remat(run, self.remat, in_scan=self.scan)
        each = (params, skips, jnp.arange(self.count))
        if self.scan:
            return lax.scan(body, x, each)
        outputs = []
        for i in range(self.count):
            x, _ = body(x, jax.tree.map(lambda leaf, i=i: leaf[i], each))
            outputs.append(x)
        return x, jnp.stack(outputs)


def _remat(run, policy: Remat, *, in_scan: bool):
    """The function, or one whose backward pass computes its inside anew."""
    if policy == "none":
        return run
    keep = None if policy == "blocks" else jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    # a scan's body already keeps XLA from merging the two computations
    return jax.checkpoint(run, policy=keep, prevent_cse=not in_scan)
