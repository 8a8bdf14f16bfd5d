"""`VideoUNet`: the video diffusion model p(o_t | h_{t-1}, a_{t-1}) of UniSim, section 2.2.

A factorised space-time U-Net (Video Diffusion Models, 2022): 1×3×3 convolutions; at the levels that
have attention, spatial attention, attention to the action, then temporal attention. The noise level
and the action enter every residual block. A super-resolution model has temporal convolutions, and
sees the low-resolution video beside the noised one.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from schemas import UsageError
from trainer.model.actions import Action, ActionEncoder
from trainer.model.conditioning import Conditioning
from trainer.model.config import ModelConfig
from trainer.model.layers import (
    Conv,
    Dense,
    Downsample,
    FrameNorm,
    Upsample,
    depth_to_space,
    space_to_depth,
    waves,
)
from trainer.model.noise import alpha_sigma
from trainer.model.placement import ANYWHERE, Placement
from trainer.model.stack import Context, Stack

__all__ = ["ModelConfig", "VideoUNet", "spread_of"]

_NOISE_FEATURES = 128


class Embedding(nnx.Module):
    """Noise levels and action, through an MLP, as one vector per frame."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.cond_width
        self.noise = Dense(_NOISE_FEATURES, width, config, rngs=rngs)
        above = config.upscale > 1
        self.low = Dense(_NOISE_FEATURES, width, config, rngs=rngs) if above else None
        self.layers = nnx.List(
            [Dense(width, width, config, rngs=rngs) for _ in range(config.cond_mlp_layers)]
        )

    def __call__(
        self, log_snr: Float[Array, " b"], low: Float[Array, " b"] | None, action: Action
    ) -> Float[Array, "b t e"]:
        """`low` is the log SNR of the low-resolution video."""
        # log SNR runs from -20 to 20: the longest wave orders it, the shortest tells 0.25 apart
        y = self.noise(waves(log_snr, _NOISE_FEATURES, 1.0, 128.0))[:, None] + action.frame
        if self.low is not None and low is not None:
            y += self.low(waves(low, _NOISE_FEATURES, 1.0, 128.0))[:, None]
        for layer in self.layers:
            y = layer(nnx.silu(y))
        return nnx.silu(y)


def spread_of(config: ModelConfig, cond: Conditioning) -> Float[Array, " b"]:
    """The standard deviation of what is not known of each sample's frames: `residual` where there
    is a history and the model has one, else 1."""
    if not config.residual:
        return jnp.ones(cond.frame_mask.shape[0])
    return jnp.where(cond.history_mask[:, -1], config.residual, 1.0)


class VideoUNet(nnx.Module):
    """Predicts the noise in a video. It is a `trainer.diffusion.DenoiseFn`.

    On the way down and on the way up a level has the same number of equal blocks (up blocks take
    their twin's output beside the current one). Parameters are float32.

    With y what the last convolution gives, ε = σ·noisy + α·y, so y is near α·ε - σ·frames. With
    `residual` s, the frames are h + r, h the newest frame of the history and r of variance s²; the
    network sees (noisy - α·h)/√D, D = α²s² + σ², and ε = σ/D·(noisy - α·h) + α·s/√D·y. So y = 0 is
    the best guess that is linear in r, and what enters and what leaves has unit variance at every
    noise level (Karras et al. 2022, section 5). Samples without a history have h = 0 and s = 1,
    which is the first formula.

    Raises:
        UsageError: when called with frames that cannot be halved down the levels, or conditioning
            of another shape than the configuration's.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        if not config.text_width:
            raise UsageError("model: text_width is 0; state the width of the text embeddings")
        self.config = config
        width, levels, pixels = config.width, range(config.levels), 3 * config.patch**2

        def blocks(inputs: int, level: int, count: int) -> Stack:
            heads, outputs = config.heads_at(level), config.width(level)
            return Stack(inputs, outputs, heads, count, config, rngs=rngs)

        self.action = ActionEncoder(config, rngs=rngs)
        self.embedding = Embedding(config, rngs=rngs)
        seen = pixels if config.upscale == 1 else 2 * pixels
        self.noisy_in = Conv(seen, width(0), config, rngs=rngs)
        if planes := config.history_frames * (pixels + 1):
            self.history_in = Conv(planes, width(0), config, use_bias=False, rngs=rngs)
        self.down = nnx.List([blocks(width(i), i, config.blocks) for i in levels])
        self.halve = nnx.List(
            [Downsample(width(i), width(i + 1), config, rngs=rngs) for i in levels[:-1]]
        )
        self.middle = blocks(width(-1), config.levels - 1, 2)
        self.up = nnx.List([blocks(2 * width(i), i, config.blocks) for i in levels])
        self.double = nnx.List(
            [Upsample(width(i + 1), width(i), config, rngs=rngs) for i in levels[:-1]]
        )
        self.norm_out = FrameNorm(width(0), config, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        self.noise_out = Conv(width(0), pixels, config, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        noisy: Float[Array, "b t h w 3"],
        log_snr: Float[Array, " b"],
        cond: Conditioning,
        *,
        dropout_key: jax.Array | None = None,
        placement: Placement = ANYWHERE,
    ) -> Float[Array, "b t h w 3"]:
        """The noise ε in `noisy` = α·frames + σ·ε, float32; zeros for padded frames.

        Args:
            noisy: frames with noise.
            log_snr: log(α²/σ²) of each sample.
            cond: history, action and masks.
            dropout_key: draws the dropout; None leaves it off.
            placement: how activations are spread over devices.
        """
        self._check(noisy, cond)
        real = cond.frame_mask[:, :, None, None, None]
        action = self.action(cond)
        context = Context(
            embedding=placement.frames(self.embedding(log_snr, cond.low_log_snr, action)),
            tokens=action.tokens,
            mask=action.mask,
            frame_mask=cond.frame_mask,
        )
        known, spread, scale = self._expected(log_snr, cond)
        change = noisy - known
        x = placement.frames(self._enter(jnp.where(real, change * lax.rsqrt(scale), 0), cond))
        x = self._down_and_up(x, context, placement, _keys(dropout_key))
        y = self.noise_out(nnx.silu(self.norm_out(x)))
        y = depth_to_space(y, self.config.patch).astype(jnp.float32)
        alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
        noise = sigma / scale * change + alpha * spread * lax.rsqrt(scale) * y
        return jnp.where(real, noise, 0)

    def _expected(
        self, log_snr: Float[Array, " b"], cond: Conditioning
    ) -> tuple[Array, Array, Array]:
        """What is known of `noisy` before the network sees it, α·h; the standard deviation s of
        what is not known of the frames; the variance D of what is not known of `noisy`."""
        alpha, sigma = (v[:, None, None, None, None] for v in alpha_sigma(log_snr))
        if not self.config.residual:
            return jnp.zeros(()), jnp.ones(()), jnp.ones(())
        there = cond.history_mask[:, -1, None, None, None, None]
        spread = spread_of(self.config, cond)[:, None, None, None, None]
        known = alpha * jnp.where(there, cond.history[:, -1:], 0)
        return known, spread, jnp.square(alpha * spread) + jnp.square(sigma)

    def _down_and_up(
        self,
        x: Float[Array, "b t p q c"],
        context: Context,
        placement: Placement,
        keys: Iterator[jax.Array | None],
    ) -> Float[Array, "b t p q c"]:
        skips: list[Array] = []
        for level, stack in enumerate(self.down):
            if level:
                x = placement.frames(self.halve[level - 1](x))
            x, outputs = stack(x, context, placement, next(keys))
            skips.append(outputs[::-1])
        x, _ = self.middle(x, context, placement, next(keys))
        for level in reversed(range(self.config.levels)):
            x, _ = self.up[level](x, context, placement, next(keys), skips.pop())
            if level:
                x = placement.frames(self.double[level - 1](x))
        return x

    def _enter(
        self, noisy: Float[Array, "b t h w 3"], cond: Conditioning
    ) -> Float[Array, "b t p q c"]:
        """The first convolution; noised frame, low-resolution frame, history and its mask are side
        by side on the channel axis.

        A convolution is linear in its input channels, so the part that reads the history is done
        once and added at every future index, not t times. The mask is a plane per history frame:
        a frame that is absent is another thing than a black one.
        """
        if cond.low is not None:
            real = cond.frame_mask[:, :, None, None, None]
            low = jax.image.resize(jnp.where(real, cond.low, 0), noisy.shape, "linear")
            noisy = jnp.concatenate([noisy, low], -1)
        x = self.noisy_in(space_to_depth(noisy, self.config.patch))
        if not self.config.history_frames:
            return x
        there = cond.history_mask[:, :, None, None, None]
        history = space_to_depth(jnp.where(there, cond.history, 0), self.config.patch)
        plane = jnp.broadcast_to(there, (*history.shape[:-1], 1)).astype(history.dtype)
        planes = jnp.moveaxis(jnp.concatenate([history, plane], -1), 1, -2)
        return x + self.history_in(planes.reshape(*planes.shape[:3], -1))[:, None]

    def _check(self, noisy: Array, cond: Conditioning) -> None:
        batch, frames, height, width, _ = noisy.shape
        self.config.check_frames(height, width)
        c = self.config
        wanted = {
            "history": (batch, c.history_frames, height, width, 3),
            "history_mask": (batch, c.history_frames),
            "tokens": (batch, cond.token_mask.shape[-1], c.text_width),
            "controls": (batch, frames, c.control_slots),
            "control_mask": (batch, c.control_slots),
            "frame_mask": (batch, frames),
        }
        if c.upscale > 1:
            wanted["low"] = (batch, frames, height // c.upscale, width // c.upscale, 3)
            wanted["low_log_snr"] = (batch,)
        for name, shape in wanted.items():
            found = getattr(getattr(cond, name), "shape", None)
            if found != shape:
                raise UsageError(
                    f"model: {name} is {found}, wanted {shape}; the model's configuration and the"
                    " data's must state the same history, text width and control slots"
                )


def _keys(key: jax.Array | None) -> Iterator[jax.Array | None]:
    """A key for each stack in turn, or None for ever."""
    index = 0
    while True:
        yield None if key is None else jax.random.fold_in(key, index)
        index += 1
