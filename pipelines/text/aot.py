"""`footprint`: the encoder compiled for a TPU slice on a machine without one.

libtpu, which `pip install jax[tpu]` brings, compiles for any topology, ahead of time. What the
encoder would take of each device is then read off the compiled program.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os

import jax
import numpy as np
from jax.experimental import topologies

from pipelines.text import sharding, t5
from pipelines.text.config import T5Config
from pipelines.text.encoder import BUCKETS, FEWEST_ROWS, TOKEN_BUDGET
from schemas import UsageError
from schemas.embedding import Compute

_GIB = 1 << 30
# bytes of memory that a JAX device has to itself: a chip, or a core where a chip is two devices
# (cloud.google.com/tpu/docs, "System architecture" of each generation)
_HBM = {
    "TPU v2": 8 * _GIB,
    "TPU v3": 16 * _GIB,
    "TPU v4": 32 * _GIB,
    "TPU v5 lite": 16 * _GIB,
    "TPU v5": 95 * _GIB,
    "TPU v6 lite": 32 * _GIB,
}
# without these libtpu asks the network what machine it is on
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footprint:
    """What one batch of the encoder takes of each device, in bytes.

    Attributes:
        topology: "v5e:2x4".
        data, model: the mesh.
        arguments: the weights and the batch. temporaries, output, code: as they are called.
        peak: of all at once, as the compiler counts it.
        memory: that a device has.
        flops: of one batch on each device.
    """

    topology: str
    data: int
    model: int
    arguments: int
    temporaries: int
    output: int
    code: int
    peak: int
    memory: int
    flops: float

    @property
    def fits(self) -> bool:
        """Whether all of it together, never reused, is within the memory."""
        total = self.arguments + self.temporaries + self.output + self.code
        return max(total, self.peak) <= self.memory

    def __str__(self) -> str:
        sizes = (self.arguments, self.temporaries, self.output, self.code, self.peak, self.memory)
        arguments, temporaries, output, code, peak, memory = (f"{n / _GIB:.2f}" for n in sizes)
        return (
            f"{self.topology}, {self.data} x {self.model} (data x model), GiB per device: arguments"
            f" {arguments}, temporaries {temporaries}, output {output}, code {code}; peak {peak} of"
            f" {memory}: {'fits' if self.fits else 'does not fit'}"
        )


def is_available() -> bool:
    """Whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def footprint(
    config: T5Config,
    topology: str,
    *,
    compute: Compute = "bfloat16",
    length: int = BUCKETS[-1],
    mesh: tuple[int, int] | None = None,
) -> Footprint:
    """Compiles the encoder for a topology, from weights stored as float32.

    JAX itself must be at work on the CPU (`JAX_PLATFORMS=cpu`), or it would look for a TPU here.

    Args:
        topology: such as "v5e:2x4" or "v3:2x2".
        length: tokens of a row; a batch is `TOKEN_BUDGET` tokens.
        mesh: devices over data and over model; default: what `TextEncoder` would take.

    Raises:
        UsageError: without libtpu, for a topology that it does not know, or a mesh that does not
            suit.
    """
    devices = _devices(topology)
    kind = devices[0].device_kind
    memory = _HBM[kind]
    types = {
        name: t5.kept_type(np.dtype(np.float32), len(shape), name, compute)
        for name, shape in config.tensors().items()
    }
    if mesh:
        placed = sharding.make_mesh(*mesh, devices)
    else:
        size = sum(int(np.prod(s)) * types[n].itemsize for n, s in config.tensors().items())
        placed = sharding.choose_mesh(config, size, FEWEST_ROWS, devices, memory)
    places = sharding.shardings(config, placed)
    params = {
        name: jax.ShapeDtypeStruct(shape, types[name], sharding=places[name])
        for name, shape in config.tensors().items()
    }
    rows, batch = TOKEN_BUDGET // length, sharding.batch_sharding(placed, FEWEST_ROWS)
    ids = jax.ShapeDtypeStruct((rows, length), np.int32, sharding=batch)
    lengths = jax.ShapeDtypeStruct((rows,), np.int32, sharding=batch)
    compiled = t5.encode.lower(params, ids, lengths, config, compute).compile()
    return _read(compiled, topology, placed, memory)


def _read(compiled, topology: str, mesh: jax.sharding.Mesh, memory: int) -> Footprint:
    used = compiled.memory_analysis()
    return Footprint(
        topology=topology,
        data=mesh.shape[sharding.DATA],
        model=mesh.shape[sharding.MODEL],
        arguments=used.argument_size_in_bytes,
        temporaries=used.temp_size_in_bytes,
        output=used.output_size_in_bytes,
        code=used.generated_code_size_in_bytes,
        peak=used.peak_memory_in_bytes,
        memory=memory,
        flops=compiled.cost_analysis()["flops"],
    )


def _devices(topology: str) -> list:
    if not is_available():
        raise UsageError("compiling for a TPU needs libtpu; `pip install jax[tpu]`")
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as e:  # libtpu names what it does not know by errors of several kinds
        reason = str(e).splitlines()[0]
        raise UsageError(f"TPU topology {topology!r}: {reason}; wanted such as v5e:2x4") from e
    if found[0].device_kind not in _HBM:
        raise UsageError(
            f"TPU topology {topology!r}: {found[0].device_kind} is not known here, wanted one of"
            f" {', '.join(_HBM)}"
        )
    return list(found)
