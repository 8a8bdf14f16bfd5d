"""Layers of the video U-Net that look at one frame at a time.

Activations are `[b, t, h, w, c]`. A 1×3×3 convolution is a 3×3 one over all `b·t` frames at once,
and a norm's statistics are a frame's own: a padded frame cannot reach a real one through either.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Shaped

from trainer.model.config import ModelConfig

Method = Literal["auto", "patches", "native"]
Initializer = jax.nn.initializers.Initializer

# pixels whose patches are made at once: some 1 MB of them at 64 channels
_CACHED = 512

_ZEROS = nnx.initializers.zeros_init()
_DENSE = nnx.initializers.lecun_normal()


def _convolve(x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"]) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _convolve_patches(x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"]) -> Array:
    return _convolve(x, kernel)


def _forward(x: Array, kernel: Array):
    return _convolve(x, kernel), (x, kernel)


def _backward(saved: tuple[Array, Array], grad: Float[Array, "n h w o"]):
    x, kernel = saved
    # the transpose of a SAME convolution is one with the kernel turned by half a turn
    into_x = _convolve(grad, kernel[::-1, ::-1].swapaxes(2, 3))
    # a kernel's gradient is all pairs of a pixel of x with one of the gradient, near each other;
    # seen from the other side it is itself turned, so the narrower of the two is cut into patches
    if x.shape[-1] <= grad.shape[-1]:
        into_kernel = _pairs(x, grad)
    else:
        into_kernel = _pairs(grad, x)[::-1, ::-1].swapaxes(2, 3)
    return into_x, into_kernel.astype(kernel.dtype)


def _pairs(a: Float[Array, "n h w p"], b: Float[Array, "n h w q"]) -> Float[Array, "3 3 p q"]:
    """Σ over n, y, x of a[n, y + r - 1, x + s - 1, p] · b[n, y, x, q], in float32."""
    n, h, w, p = a.shape
    count = max(k for k in range(1, n + 1) if n % k == 0 and (k == 1 or k * h * w <= _CACHED))
    # channels before pixels, so that the product is row by row
    frames = jnp.moveaxis(a.reshape(-1, count, h, w, p), -1, 1)
    frames = jnp.pad(frames, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))

    def add(total: Array, some: tuple[Array, Array]) -> tuple[Array, None]:
        padded, b = some
        shifts = [padded[..., r : r + h, s : s + w] for r in range(3) for s in range(3)]
        patches = jnp.concatenate(shifts).reshape(9 * p, -1)
        flat = b.reshape(patches.shape[1], -1)
        return total + jnp.matmul(patches, flat, preferred_element_type=jnp.float32), None

    start = jnp.zeros((9 * p, b.shape[-1]))
    total, _ = lax.scan(add, start, (frames, b.reshape(-1, count, *b.shape[1:])))
    return total.reshape(3, 3, p, -1)


_convolve_patches.defvjp(_forward, _backward)


def conv3x3(
    x: Float[Array, "n h w i"], kernel: Float[Array, "3 3 i o"], method: Method = "auto"
) -> Float[Array, "n h w o"]:
    """A 3×3 convolution with zero padding, stride 1.

    XLA's CPU backend has a quick convolution, but for small kernels only: a kernel gradient is one
    with a kernel as large as a frame, for which it takes four times as long (and sixty inside
    `lax.scan`, where it falls to a plain loop nest). "patches" writes the gradients itself: that of
    x as a convolution, the kernel's as matrix products of patches, a few frames at a time so that
    these stay in the cache. It has no forward-mode derivative. "native" leaves them to autodiff.
    "auto" is "patches" on a CPU that is one device, and "native" elsewhere: a loop over frames does
    not suit frames that are spread over devices.
    """
    if method == "auto":
        alone = jax.default_backend() == "cpu" and jax.device_count() == 1
        method = "patches" if alone else "native"
    return (_convolve_patches if method == "patches" else _convolve)(x, kernel)


class Conv(nnx.Module):
    """A 1×3×3 convolution with bias over `[..., h, w, c]`."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: ModelConfig,
        *,
        kernel_init: Initializer = _DENSE,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs)) if use_bias else None
        self.dtype = config.compute
        self.method: Method = config.conv

    def __call__(self, x: Float[Array, "*n h w i"]) -> Float[Array, "*n h w o"]:
        merged = x.reshape(-1, *x.shape[-3:]).astype(self.dtype)
        y = conv3x3(merged, self.kernel[...].astype(self.dtype), self.method)
        if self.bias is not None:
            y += self.bias[...].astype(self.dtype)
        return y.reshape(*x.shape[:-1], -1)


class Dense(nnx.Linear):
    """A linear layer in the configuration's compute type; `zero` starts it at zero."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        config: ModelConfig,
        *,
        zero: bool = False,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            inputs,
            outputs,
            use_bias=use_bias,
            dtype=config.compute,
            kernel_init=_ZEROS if zero else _DENSE,
            rngs=rngs,
        )


class FrameNorm(nnx.Module):
    """Group normalisation of each frame alone, over its pixels and a group of channels."""

    def __init__(self, channels: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.groups = math.gcd(channels, config.norm_groups)
        while self.groups > 1 and channels // self.groups < 4:
            self.groups //= 2
        self.scale = nnx.Param(jnp.ones(channels))
        self.shift = nnx.Param(jnp.zeros(channels))
        self.dtype = config.compute

    def __call__(
        self, x: Float[Array, "b t h w c"], film: Float[Array, "b t cc"] | None = None
    ) -> Float[Array, "b t h w c"]:
        """The normalised frames, modulated per frame by `film` = [scale, shift], `cc` = 2c."""
        *frames, _, _, channels = x.shape
        wide = x.astype(jnp.float32)
        # sums per channel first: all that touches pixels is two reductions and one multiply-add
        sums = jnp.stack([wide.mean((-3, -2)), jnp.square(wide).mean((-3, -2))])
        grouped = sums.reshape(2, *frames, self.groups, -1).mean(-1)
        mean, variance = grouped[0], jnp.maximum(grouped[1] - jnp.square(grouped[0]), 0)
        each = channels // self.groups
        mean, rate = (jnp.repeat(v, each, -1) for v in (mean, lax.rsqrt(variance + 1e-5)))
        scale, shift = self.scale[...], self.shift[...]
        if film is not None:
            by, plus = jnp.split(film.astype(jnp.float32), 2, -1)
            scale, shift = scale * (1 + by), shift * (1 + by) + plus
        gain = rate * scale
        offset = shift - mean * gain
        return (wide * gain[..., None, None, :] + offset[..., None, None, :]).astype(self.dtype)


class ResBlock(nnx.Module):
    """Two convolutions around a residual; the conditioning enters as scale and shift (FiLM)."""

    def __init__(self, inputs: int, outputs: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.norm1 = FrameNorm(inputs, config, rngs=rngs)
        self.conv1 = Conv(inputs, outputs, config, rngs=rngs)
        self.film = Dense(config.cond_width, 2 * outputs, config, rngs=rngs)
        self.norm2 = FrameNorm(outputs, config, rngs=rngs)
        self.conv2 = Conv(outputs, outputs, config, kernel_init=_ZEROS, rngs=rngs)
        self.skip = Dense(inputs, outputs, config, rngs=rngs) if inputs != outputs else None
        self.rate = config.dropout

    def __call__(
        self,
        x: Float[Array, "b t h w i"],
        embedding: Float[Array, "b t e"],
        key: jax.Array | None = None,
    ) -> Float[Array, "b t h w o"]:
        """`key` draws the dropout; None leaves it off."""
        y = self.conv1(nnx.silu(self.norm1(x)))
        y = nnx.silu(self.norm2(y, self.film(embedding)))
        y = self.conv2(dropout(y, self.rate, key))
        return y + (x if self.skip is None else self.skip(x))


class Downsample(nnx.Module):
    """Halves height and width: a 2×2 convolution of stride 2, as a matrix product."""

    def __init__(self, inputs: int, outputs: int, config: ModelConfig, *, rngs: nnx.Rngs):
        self.dense = Dense(4 * inputs, outputs, config, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h//2 w//2 o"]:
        return self.dense(space_to_depth(x, 2))


class Upsample(nnx.Module):
    """Doubles height and width: nearest pixel, then a convolution."""

    def __init__(self, inputs: int, outputs: int, config: ModelConfig, *, rngs: nnx.Rngs):
        # a 1×1 convolution commutes with repeating pixels, so it is done before, at a quarter of
        # the cost, and leaves the 3×3 one the finer level's width
        self.dense = Dense(inputs, outputs, config, rngs=rngs)
        self.conv = Conv(outputs, outputs, config, rngs=rngs)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t 2*h 2*w o"]:
        y = self.dense(x)
        *frames, height, width, channels = y.shape
        y = jnp.broadcast_to(
            y[..., :, None, :, None, :], (*frames, height, 2, width, 2, channels)
        ).reshape(*frames, 2 * height, 2 * width, channels)
        return self.conv(y)


def dropout(x: Array, rate: float, key: jax.Array | None) -> Array:
    """Zeros a share `rate` of the values and scales the rest up; off where `key` is None."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0)


def space_to_depth(x: Float[Array, "*n h w c"], side: int) -> Float[Array, "*n p q cc"]:
    """Every square of `side`² pixels as one position with its pixels side by side in channels."""
    *frames, height, width, channels = x.shape
    x = x.reshape(*frames, height // side, side, width // side, side, channels)
    return x.swapaxes(-4, -3).reshape(*frames, height // side, width // side, -1)


def depth_to_space(x: Float[Array, "*n p q cc"], side: int) -> Float[Array, "*n h w c"]:
    """The inverse of `space_to_depth`."""
    *frames, height, width, channels = x.shape
    x = x.reshape(*frames, height, width, side, side, channels // side**2)
    return x.swapaxes(-4, -3).reshape(*frames, height * side, width * side, -1)


def waves(x: Shaped[Array, "*n"], features: int, shortest: float, longest: float) -> Array:
    """Sines and cosines `[*n, features]` of x, with periods geometric from shortest to longest."""
    periods = jnp.geomspace(shortest, longest, features // 2)
    angles = 2 * jnp.pi * x[..., None].astype(jnp.float32) / periods
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1)
