"""How an encoder lies on several devices: a mesh of data x model, and each tensor's place on it.

Rows of a batch are spread over "data". Over "model" each layer is cut as Megatron-LM cuts it
(Shoeybi et al. 2019, section 3): whole heads and hidden units, so that a layer needs two sums over
devices; and the rows of the embedding matrix, where their number can be divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pipelines.text.config import RELATIVE_BIAS, T5Config
from schemas import UsageError

DATA, MODEL = "data", "model"

# the share of a device's memory that weights may take before they are cut further
_SHARE = 0.5


def make_mesh(data: int, model: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh `[data, model]` of the first data x model devices; default: this process's own.

    Raises:
        UsageError: if there are not so many.
    """
    found = list(jax.local_devices() if devices is None else devices)
    if len(found) < data * model:
        raise UsageError(
            f"a mesh of {data} x {model} devices for the T5 encoder: only {len(found)} are there"
        )
    return jax.make_mesh(
        (data, model), (DATA, MODEL), (AxisType.Auto,) * 2, devices=found[: data * model]
    )


def choose_mesh(
    config: T5Config,
    weights: int,
    rows: int,
    devices: Sequence[Any] | None = None,
    memory: int | None = None,
) -> Mesh:
    """A mesh of as many devices as can be used: over "model" only as many as memory asks for.

    Args:
        weights: bytes of all tensors.
        rows: of the smallest batch; "data" divides them.
        devices: default: this process's own.
        memory: bytes of a device; default: what it says, or as much as it takes.
    """
    found = list(jax.local_devices() if devices is None else devices)
    model = model_devices(config, weights, len(found), memory or _memory(found[0]))
    return make_mesh(int(np.gcd(len(found) // model, rows)), model, found)


def model_devices(config: T5Config, weights: int, devices: int, memory: int | None) -> int:
    """How many of the devices share a layer: the fewest whose memory the weights leave room in.

    Args:
        weights: bytes of all tensors.
        memory: bytes of a device; None for as much as it takes.
    """
    options = [n for n in range(1, devices + 1) if devices % n == 0 and divides(config, n)]
    fits = [n for n in options if memory is None or weights / n <= _SHARE * memory]
    return fits[0] if fits else options[-1]


def divides(config: T5Config, model: int) -> bool:
    """Whether so many devices can share a layer."""
    return config.num_heads % model == 0 and config.d_ff % model == 0


def shardings(config: T5Config, mesh: Mesh) -> dict[str, NamedSharding]:
    """The place of every tensor of `T5Config.tensors`, by name.

    Raises:
        UsageError: if the mesh cannot share the heads and the feed-forward evenly.
    """
    model = mesh.shape[MODEL]
    if not divides(config, model):
        fits = [n for n in range(1, config.num_heads + 1) if divides(config, n)]
        raise UsageError(
            f"a mesh with {model} devices over {MODEL!r} cannot share {config.num_heads} heads and"
            f" a feed-forward of {config.d_ff} evenly; take one of {', '.join(map(str, fits))}"
        )
    return {
        name: NamedSharding(mesh, _spec(name, shape, model))
        for name, shape in config.tensors().items()
    }


def batch_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """The place of a batch, its rows spread over "data".

    Args:
        rows: of the smallest batch.

    Raises:
        UsageError: if the mesh cannot share them evenly.
    """
    if rows % mesh.shape[DATA]:
        raise UsageError(
            f"a mesh with {mesh.shape[DATA]} devices over {DATA!r} cannot share batches of {rows}"
            " texts evenly; take a divisor of it"
        )
    return NamedSharding(mesh, P(DATA))


def _spec(name: str, shape: tuple[int, ...], model: int) -> P:
    if name == "shared.weight":
        return P(MODEL, None) if shape[0] % model == 0 else P()
    if name == RELATIVE_BIAS or name.endswith((".o.weight", ".wo.weight")):
        return P(None, MODEL)
    return P(MODEL, None) if len(shape) == 2 else P()


def _memory(device: Any) -> int | None:
    """Bytes that a device has for itself; None where it says nothing, as a CPU."""
    return (device.memory_stats() or {}).get("bytes_limit")
