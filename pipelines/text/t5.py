"""The T5 encoder in plain JAX, from weights of any float type.

Raffel et al. 2020, section 2.1: pre-norm blocks with RMS norms, one relative position bias that
all blocks share, no scaling of the attention logits, no biases in matrices; and the gated
feed-forward of v1.1 (Shazeer 2020).

Parameters are a flat dictionary under Hugging Face's names, so that whoever shards or quantises
them goes by name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, Int

from pipelines.text.config import RELATIVE_BIAS, T5Config
from pipelines.text.header import DTYPES
from pipelines.text.weights import Weights
from schemas.embedding import Compute

Params = Mapping[str, Array]

_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
_MASKED = -1e30  # finite, so that a row of padding alone gives no NaN


def load_params(
    weights: Weights, compute: Compute, places: Mapping[str, jax.sharding.Sharding]
) -> dict[str, Array]:
    """The tensors on their devices, by name.

    One after another: this machine never holds more than one of them beside what has arrived, and
    a device never more than its own part. They keep their stored type, and are widened where they
    are used; matrices become bfloat16 on the way if that is what they are multiplied in.

    Args:
        weights: a Hugging Face directory's.
        compute: as for `encode`.
        places: name -> where it goes.
    """
    params = {}
    for name, value in weights.read():
        wanted = kept_type(value.dtype, value.ndim, name, compute)
        params[name] = jax.device_put(value.astype(wanted, copy=False), places[name])
        # or the next would be read while this one is still on its way
        params[name].block_until_ready()
    return params


def kept_type(stored: np.dtype, ndim: int, name: str, compute: Compute) -> np.dtype:
    """The type that a tensor has on its devices."""
    if compute == "bfloat16" and ndim == 2 and name != RELATIVE_BIAS:
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(np.float32) if stored == np.float64 else stored


def kept_bytes(weights: Weights, compute: Compute) -> int:
    """What all tensors take on the devices together."""
    return sum(
        math.prod(t.shape) * kept_type(DTYPES[t.dtype], len(t.shape), name, compute).itemsize
        for name, t in weights.tensors.items()
    )


@functools.partial(jax.jit, static_argnames=("config", "compute"))
def encode(
    params: Params,
    ids: Int[Array, "n l"],
    lengths: Int[Array, " n"],
    config: T5Config,
    compute: Compute = "float32",
) -> Float[Array, "n l d"]:
    """The last hidden states, float32.

    Args:
        params: as `load_params` gives them.
        ids: token ids, padded at the end.
        lengths: real tokens of each row; what the rows give beyond them means nothing.
        config: the encoder's; a new one compiles anew.
        compute: what matrices are multiplied in. Sums, norms, softmax and the residual stream are
            float32 either way.
    """
    length = ids.shape[1]
    real = jnp.arange(length) < lengths[:, None]
    buckets = relative_buckets(length, config)
    bias = jnp.moveaxis(_f32(params[RELATIVE_BIAS])[buckets], 2, 0)  # h l m
    bias = jnp.where(real[:, None, None, :], bias, _MASKED)
    # T5 neither scales its embeddings nor adds positions to them
    x = _f32(params["shared.weight"][ids])
    for i in range(config.num_layers):
        block = f"encoder.block.{i}"
        normed = _rms_norm(params, f"{block}.layer.0.layer_norm", x, config)
        attention = f"{block}.layer.0.SelfAttention"
        x = x + _attention(params, attention, normed, bias, config, compute)
        normed = _rms_norm(params, f"{block}.layer.1.layer_norm", x, config)
        feed_forward = f"{block}.layer.1.DenseReluDense"
        x = x + _feed_forward(params, feed_forward, normed, config, compute)
    return _rms_norm(params, "encoder.final_layer_norm", x, config)


def relative_buckets(length: int, config: T5Config) -> np.ndarray:
    """The bucket of each (query, key) pair's distance, int32 `[length, length]`.

    Half of the buckets are for keys that come later. Of each half, half are for one distance each
    and the rest grow logarithmically up to `relative_attention_max_distance`, where the last
    takes all that is farther (Raffel et al. 2020, section 2.1).
    """
    distance = np.arange(length)[None, :] - np.arange(length)[:, None]
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    far = np.abs(distance)
    # in float32, as the published models were trained: a boundary may round to either side
    growth = np.log(np.maximum(far, exact).astype(np.float32) / np.float32(exact))
    span = np.float32(np.log(config.relative_attention_max_distance / exact))
    log_bucket = exact + (growth / span * np.float32(half - exact)).astype(np.int32)
    bucket = np.where(far < exact, far, np.minimum(log_bucket, half - 1))
    return (bucket + half * (distance > 0)).astype(np.int32)


def _attention(
    params: Params,
    name: str,
    x: Float[Array, "n l d"],
    bias: Float[Array, "n h l m"],
    config: T5Config,
    compute: Compute,
) -> Float[Array, "n l d"]:
    def heads(which: str) -> Array:
        projected = _linear(params, f"{name}.{which}", x, compute)
        return projected.reshape(*x.shape[:2], config.num_heads, config.d_kv)

    # the logits are not divided by sqrt(d_kv): T5's initialisation holds that factor
    logits = _product("nlhk,nmhk->nhlm", heads("q"), heads("k"), compute) + bias
    weights = jax.nn.softmax(logits, axis=-1)
    mixed = _product("nhlm,nmhk->nlhk", weights, heads("v"), compute)
    return _linear(params, f"{name}.o", mixed.reshape(*x.shape[:2], config.d_inner), compute)


def _feed_forward(
    params: Params, name: str, x: Float[Array, "n l d"], config: T5Config, compute: Compute
) -> Float[Array, "n l d"]:
    activation = _ACTIVATIONS[config.activation]
    if config.gated:
        gate = activation(_linear(params, f"{name}.wi_0", x, compute))
        hidden = gate * _linear(params, f"{name}.wi_1", x, compute)
    else:
        hidden = activation(_linear(params, f"{name}.wi", x, compute))
    return _linear(params, f"{name}.wo", hidden, compute)


def _rms_norm(
    params: Params, name: str, x: Float[Array, "n l d"], config: T5Config
) -> Float[Array, "n l d"]:
    """Scaled by the root mean square; no mean is taken off and no bias added."""
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(variance + config.layer_norm_epsilon)
    return x * scale * _f32(params[f"{name}.weight"])


def _linear(
    params: Params, name: str, x: Float[Array, "n l i"], compute: Compute
) -> Float[Array, "n l o"]:
    return _product("nli,oi->nlo", x, params[f"{name}.weight"], compute)


def _product(axes: str, a: Array, b: Array, compute: Compute) -> Array:
    """A matrix product, summed in float32."""
    return jnp.einsum(
        axes,
        a.astype(compute),
        b.astype(compute),
        precision="highest" if compute == "float32" else None,
        preferred_element_type=jnp.float32,
    )


def _f32(x: Array) -> Array:
    return x.astype(jnp.float32)
