"""Checksums of arrays, wherever their parts are: what a checkpoint holds is what was saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


def checksums(tree: Any) -> dict[str, int]:
    """A checksum of each array of a tree, by its name in it. Elements have at most 32 bits.

    It is the sum over the array's elements' bits of bits · (2 · index + 1), mod 2^32. Whole numbers
    add up to the same in any order, so it depends neither on how an array is spread over devices
    nor on how many processes there are; and as each factor is odd, no single wrong bit is missed.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path) for path, _ in flat]
    sums = jax.device_get(_sums([leaf for _, leaf in flat]))
    return dict(zip(names, map(int, sums), strict=True))


def damaged(tree: Any, wanted: Mapping[str, int]) -> list[str]:
    """Names of arrays that are not those of which the checksums were taken."""
    found = checksums(tree)
    return sorted(
        name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    )


@jax.jit
def _sums(leaves: list[Array]) -> list[UInt32[Array, ""]]:
    return [_sum(leaf) for leaf in leaves]


def _sum(leaf: Array) -> UInt32[Array, ""]:
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    bits = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
    words = jax.lax.bitcast_convert_type(leaf, bits).astype(jnp.uint32)
    # the index in row-major order, made of one per dimension so that nothing is gathered
    index = jnp.zeros((), jnp.uint32)
    for axis in range(words.ndim):
        stride = math.prod(words.shape[axis + 1 :]) % 2**32
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        index = index + along * jnp.uint32(stride)
    return jnp.sum(words * (2 * index + 1), dtype=jnp.uint32)
