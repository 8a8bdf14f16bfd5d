"""`TemporalConvolution`: how the frames of a super-resolution model see each other."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from trainer.model.config import ModelConfig
from trainer.model.layers import FrameNorm


class TemporalConvolution(nnx.Module):
    """A 3×1×1 convolution over neighbouring real frames, as a residual that starts as the identity.

    Padded frames count as zeros, and a frame that is alone passes through unchanged: the layer is
    the identity on images.
    """

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.norm = FrameNorm(channels, config, rngs=rngs)
        # named as all kernels are, so that it is cast with them
        self.kernel = nnx.Param(jnp.zeros((3, channels, channels)))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.dtype = config.compute

    def __call__(
        self, x: Float[Array, "b t h w c"], frame_mask: Bool[Array, "b t"]
    ) -> Float[Array, "b t h w c"]:
        real = frame_mask[:, :, None, None, None]
        y = jnp.where(real, nnx.silu(self.norm(x)), 0).astype(self.dtype)
        before, same, after = (y @ kernel for kernel in self.kernel[...].astype(self.dtype))
        still = ((0, 0), (0, 0), (0, 0), (0, 0))
        mixed = (
            jnp.pad(before[:, :-1], (still[0], (1, 0), *still[1:]))
            + same
            + jnp.pad(after[:, 1:], (still[0], (0, 1), *still[1:]))
            + self.bias[...].astype(self.dtype)
        )
        several = (frame_mask.sum(1) > 1)[:, None, None, None, None]
        return x + jnp.where(real & several, mixed, 0)
