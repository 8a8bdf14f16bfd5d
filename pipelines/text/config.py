"""`T5Config`: the `config.json` of a Hugging Face T5 directory, and the tensors it asks for."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from schemas import UsageError, did_you_mean

PAD_ID = 0
EOS_ID = 1

# config.json's name -> the name of the function in t5.py; gelu_new is the tanh approximation
ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_FEED_FORWARD = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}
_LIMIT = 1 << 20
_MAX_LAYERS = 1 << 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """The encoder's sizes, under config.json's own names.

    Attributes:
        vocab_size: rows of the embedding matrix, at least the vocabulary's pieces.
        d_model: width of an embedding. d_kv: width of one head. d_ff: of the feed-forward.
        num_layers, num_heads: of the encoder.
        activation: "relu" or "gelu_tanh".
        gated: whether the feed-forward has a gate (v1.1 and Flan) or not (v1.0).
        relative_attention_num_buckets, relative_attention_max_distance: of the position bias.
        layer_norm_epsilon: added to the mean square.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    activation: str
    gated: bool
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def from_json(cls, text: str | bytes, path: str = "config.json") -> T5Config:
        """The configuration in `text`; `path` is what errors call it.

        Raises:
            UsageError: if it is not the JSON of a T5 configuration that this encoder computes.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise UsageError(f"{path}: not JSON ({e}); restore the file") from e
        if not isinstance(value, dict) or value.get("model_type") != "t5":
            found = value.get("model_type") if isinstance(value, dict) else type(value).__name__
            raise UsageError(
                f"{path}: model_type is {found!r}, wanted 't5'; give a T5 directory (v1.0, v1.1 or"
                " Flan)"
            )
        _check_special_ids(value, path)
        activation, gated = _feed_forward(value, path)
        config = cls(
            **{name: _integer(value, name, path) for name in _SIZES},
            **{name: _integer(value, name, path, default) for name, default in _POSITIONS.items()},
            layer_norm_epsilon=_epsilon(value, path),
            activation=activation,
            gated=gated,
        )
        config._check(path)
        return config

    def _check(self, path: str) -> None:
        buckets, distance = (
            self.relative_attention_num_buckets,
            self.relative_attention_max_distance,
        )
        # half of the buckets are for each direction, half of those for exact distances
        if buckets % 4 or distance <= buckets // 4:
            raise UsageError(
                f"{path}: relative_attention_num_buckets {buckets} and max_distance {distance},"
                " wanted a multiple of 4 and a distance above a quarter of it"
            )
        if self.num_layers > _MAX_LAYERS:
            raise UsageError(f"{path}: num_layers is {self.num_layers}, at most {_MAX_LAYERS} go")

    @property
    def d_inner(self) -> int:
        """Width of all heads together; it may differ from d_model."""
        return self.num_heads * self.d_kv

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Hugging Face name -> shape of every tensor of the encoder; matrices are `[out, in]`."""
        d, inner, ff = self.d_model, self.d_inner, self.d_ff
        wanted: dict[str, tuple[int, ...]] = {
            "shared.weight": (self.vocab_size, d),
            "encoder.final_layer_norm.weight": (d,),
            RELATIVE_BIAS: (self.relative_attention_num_buckets, self.num_heads),
        }
        for i in range(self.num_layers):
            attention, feed_forward = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
            for name in "qkv":
                wanted[f"{attention}.SelfAttention.{name}.weight"] = (inner, d)
            wanted[f"{attention}.SelfAttention.o.weight"] = (d, inner)
            wanted[f"{attention}.layer_norm.weight"] = (d,)
            for name in ("wi_0", "wi_1") if self.gated else ("wi",):
                wanted[f"{feed_forward}.DenseReluDense.{name}.weight"] = (ff, d)
            wanted[f"{feed_forward}.DenseReluDense.wo.weight"] = (d, ff)
            wanted[f"{feed_forward}.layer_norm.weight"] = (d,)
        return wanted


# the first block's bias serves all blocks
RELATIVE_BIAS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
_POSITIONS = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}


def _integer(value: dict[str, Any], name: str, path: str, default: int | None = None) -> int:
    found = value.get(name, default)
    if type(found) is not int or not 1 <= found <= _LIMIT:
        raise UsageError(f"{path}: {name} is {found!r}, wanted an integer within 1..{_LIMIT}")
    return found


def _epsilon(value: dict[str, Any], path: str) -> float:
    found = value.get("layer_norm_epsilon", 1e-6)
    if type(found) not in (int, float) or not 0 < found < 1:
        raise UsageError(f"{path}: layer_norm_epsilon is {found!r}, wanted a number within 0..1")
    return float(found)


def _check_special_ids(value: dict[str, Any], path: str) -> None:
    for name, wanted in (("pad_token_id", PAD_ID), ("eos_token_id", EOS_ID)):
        if value.get(name, wanted) != wanted:
            raise UsageError(f"{path}: {name} is {value[name]!r}, T5 has {wanted}")


def _feed_forward(value: dict[str, Any], path: str) -> tuple[str, bool]:
    """The activation and whether it is gated.

    Three generations of config.json say it differently: nothing at all (v1.0: ReLU),
    `feed_forward_proj` alone, or `dense_act_fn` and `is_gated_act`, which then lead.
    """
    projection = value.get("feed_forward_proj")
    if projection is not None and projection not in _FEED_FORWARD:
        hint = did_you_mean(str(projection), list(_FEED_FORWARD))
        raise UsageError(f"{path}: feed_forward_proj is {projection!r}, {hint}")
    name, gated = _FEED_FORWARD[projection or "relu"]
    name = value.get("dense_act_fn", name)
    gated = value.get("is_gated_act", gated)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        hint = did_you_mean(str(name), list(ACTIVATIONS))
        raise UsageError(f"{path}: dense_act_fn is {name!r}, {hint}")
    contradicts = projection is not None and gated != _FEED_FORWARD[projection][1]
    if type(gated) is not bool or contradicts:
        raise UsageError(
            f"{path}: is_gated_act is {gated!r} but feed_forward_proj is {projection!r}"
        )
    return ACTIVATIONS[name], gated
