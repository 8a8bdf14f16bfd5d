"""The T5 encoder in plain JAX, computed in float32 from weights of any float type.

Raffel et al. 2020, section 2.1: pre-norm blocks with RMS norms, one relative position bias that
all blocks share, no scaling of the attention logits, no biases in matrices; and the gated
feed-forward of v1.1 (Shazeer 2020).

Parameters are a flat dictionary under Hugging Face's names, so that whoever shards or quantises
them goes by name. They stay in their stored type; each is widened where it is used.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from pipelines import files
from pipelines.text.config import RELATIVE_BIAS, T5Config
from pipelines.text.directory import WEIGHTS
from pipelines.text.weights import Weights

Params = Mapping[str, Array]

_ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}
_MASKED = -1e30  # finite, so that a row of padding alone gives no NaN


def load_params(directory: str, config: T5Config) -> dict[str, Array]:
    """The encoder's tensors from the directory's safetensors, by Hugging Face name.

    Raises:
        UsageError: if tensors are missing or of the wrong shape, all named in one line.
    """
    weights = Weights.open(files.join(directory, WEIGHTS))
    wanted = config.tensors()
    weights.check(wanted)
    return {
        name: jnp.asarray(value.astype(np.float32) if value.dtype == np.float64 else value)
        for name, value in weights.read(wanted)
    }


@functools.partial(jax.jit, static_argnames="config")
def encode(
    params: Params, ids: Int[Array, "n l"], lengths: Int[Array, " n"], config: T5Config
) -> Float[Array, "n l d"]:
    """The last hidden states, float32.

    Args:
        params: as `load_params` gives them.
        ids: token ids, padded at the end.
        lengths: real tokens of each row; what the rows give beyond them means nothing.
        config: the encoder's; a new one compiles anew.
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
        x = x + _attention(params, f"{block}.layer.0.SelfAttention", normed, bias, config)
        normed = _rms_norm(params, f"{block}.layer.1.layer_norm", x, config)
        x = x + _feed_forward(params, f"{block}.layer.1.DenseReluDense", normed, config)
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
) -> Float[Array, "n l d"]:
    def heads(which: str) -> Array:
        projected = _linear(params, f"{name}.{which}", x)
        return projected.reshape(*x.shape[:2], config.num_heads, config.d_kv)

    # the logits are not divided by sqrt(d_kv): T5's initialisation holds that factor
    logits = jnp.einsum("nlhk,nmhk->nhlm", heads("q"), heads("k"), precision="highest") + bias
    weights = jax.nn.softmax(logits, axis=-1)
    mixed = jnp.einsum("nhlm,nmhk->nlhk", weights, heads("v"), precision="highest")
    return _linear(params, f"{name}.o", mixed.reshape(*x.shape[:2], config.d_inner))


def _feed_forward(
    params: Params, name: str, x: Float[Array, "n l d"], config: T5Config
) -> Float[Array, "n l d"]:
    activation = _ACTIVATIONS[config.activation]
    if config.gated:
        gate = activation(_linear(params, f"{name}.wi_0", x))
        hidden = gate * _linear(params, f"{name}.wi_1", x)
    else:
        hidden = activation(_linear(params, f"{name}.wi", x))
    return _linear(params, f"{name}.wo", hidden)


def _rms_norm(
    params: Params, name: str, x: Float[Array, "n l d"], config: T5Config
) -> Float[Array, "n l d"]:
    """Scaled by the root mean square; no mean is taken off and no bias added."""
    variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    scale = jax.lax.rsqrt(variance + config.layer_norm_epsilon)
    return x * scale * _f32(params[f"{name}.weight"])


def _linear(params: Params, name: str, x: Float[Array, "n l i"]) -> Float[Array, "n l o"]:
    return jnp.einsum("nli,oi->nlo", x, _f32(params[f"{name}.weight"]), precision="highest")


def _f32(x: Array) -> Array:
    return x.astype(jnp.float32)
