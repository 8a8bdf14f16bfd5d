"""One text's embedding as the bytes of a record: real tokens only, bfloat16 or int8.

bfloat16 keeps 8 bits of each value (UniSim's tables, 2 bytes a value). int8 has a scale per token,
the token's largest magnitude by 127: half the bytes for an error of at most half a step.
"""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np

EmbeddingDtype = Literal["bfloat16", "int8"]
DTYPES: tuple[EmbeddingDtype, ...] = ("bfloat16", "int8")
Compute = Literal["float32", "bfloat16"]
"""What an encoder computes matrix products in; they are summed in float32 either way."""
_SCALE_BYTES = 4


def token_bytes(width: int, dtype: EmbeddingDtype) -> int:
    """How many bytes one token takes in a record."""
    return 2 * width if dtype == "bfloat16" else width + _SCALE_BYTES


def encode_embedding(embedding: np.ndarray, dtype: EmbeddingDtype) -> bytes:
    """A record of float `[tokens, width]`, the same bytes on every machine.

    bfloat16 is little-endian, row by row. int8 is the scales, little-endian float32 `[tokens]`,
    then the values `[tokens, width]`, each the nearest to value by scale.
    """
    if dtype == "bfloat16":
        return embedding.astype(ml_dtypes.bfloat16).view(np.uint16).astype("<u2").tobytes()
    values = embedding.astype(np.float32)
    scales = np.abs(values).max(-1) / np.float32(127)
    steps = np.rint(values / np.where(scales > 0, scales, 1)[:, None])
    return scales.astype("<f4").tobytes() + steps.astype(np.int8).tobytes()


def decode_embedding(data: bytes, width: int, dtype: EmbeddingDtype) -> np.ndarray:
    """The inverse of `encode_embedding`: bfloat16 `[tokens, width]`.

    Raises:
        ValueError: if the bytes are not a whole number of tokens, at least one.
    """
    tokens, rest = divmod(len(data), token_bytes(width, dtype))
    if rest or not tokens:
        raise ValueError(f"{len(data)} bytes are not tokens of {width} {dtype} values")
    if dtype == "bfloat16":
        stored = np.frombuffer(data, "<u2").astype(np.uint16, copy=False)
        return stored.view(ml_dtypes.bfloat16).reshape(tokens, width)
    scales = np.frombuffer(data, "<f4", tokens)
    steps = np.frombuffer(data, np.int8, offset=_SCALE_BYTES * tokens).reshape(tokens, width)
    return (steps * scales[:, None]).astype(ml_dtypes.bfloat16)
