"""`Chip`: the TPU generations, what each can do, and the slices that exist.

Figures are of one chip, from "System architecture" of each generation in Google Cloud's TPU
documentation; the links of v2 and v3 are from Jouppi et al. 2020, "A domain-specific supercomputer
for training deep neural networks".
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from typing import Any

import jax

from schemas import UsageError, did_you_mean

_GIB = 1 << 30
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_CUBIC += ("8x16x16", "16x16x16")

# libtpu compiles without a TPU, but asks the network what machine it is on unless it is told
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One generation.

    Attributes:
        cores: JAX devices of a chip.
        memory: bytes of HBM.
        flops: bfloat16 operations per second.
        memory_rate: bytes per second of HBM.
        link_rate: bytes per second that all its links to other chips take in.
        slices: the topologies that exist.
    """

    cores: int = 1
    memory: int
    flops: float
    memory_rate: float
    link_rate: float
    slices: tuple[str, ...]


CHIPS = {
    "v2": Chip(
        cores=2,
        memory=16 * _GIB,
        flops=46e12,
        memory_rate=700e9,
        link_rate=4 * 62e9,
        slices=("2x2", "4x4", "4x8", "8x8", "8x16", "16x16"),
    ),
    "v3": Chip(
        cores=2,
        memory=32 * _GIB,
        flops=123e12,
        memory_rate=900e9,
        link_rate=4 * 82e9,
        slices=("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32"),
    ),
    "v4": Chip(memory=32 * _GIB, flops=275e12, memory_rate=1.2e12, link_rate=300e9, slices=_CUBIC),
    "v5e": Chip(memory=16 * _GIB, flops=197e12, memory_rate=819e9, link_rate=200e9, slices=_FLAT),
    "v5p": Chip(
        memory=95 * _GIB,
        flops=459e12,
        memory_rate=2.765e12,
        link_rate=600e9,
        slices=(*_CUBIC, "16x16x24"),
    ),
    "v6e": Chip(memory=32 * _GIB, flops=918e12, memory_rate=1.64e12, link_rate=400e9, slices=_FLAT),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slice:
    """A slice of TPUs that something can be compiled for. Figures are of one JAX device, which is a
    chip, or a core where a chip is two devices.

    Attributes:
        topology: "v3:16x32".
        devices: descriptions to make a mesh of.
    """

    topology: str
    devices: tuple[Any, ...]
    memory: int
    flops: float
    memory_rate: float
    link_rate: float


def parse(topology: str) -> tuple[Chip, int]:
    """The generation and number of chips of "v3:16x32".

    Raises:
        UsageError: if there is no such slice; it lists those that there are.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise UsageError(
            f"--topology {topology}: no TPU {name!r}, {did_you_mean(name, list(CHIPS))}; wanted"
            f" such as v3:16x32, with one of {', '.join(CHIPS)}"
        )
    if shape not in CHIPS[name].slices:
        known = ", ".join(f"{name}:{s}" for s in CHIPS[name].slices)
        raise UsageError(f"--topology {topology} does not exist; there are {known}")
    return CHIPS[name], math.prod(int(side) for side in shape.split("x"))


_KINDS = {
    "TPU v2": "v2",
    "TPU v3": "v3",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
"""JAX's `device_kind` -> generation."""


def utilisation(compiled: Any, device_kind: str | None = None) -> float:
    """The share of a device's peak FLOP/s that one run a second of a compiled program takes: times
    the runs per second, its model FLOPs utilisation. 0 where the peak is not known.

    Args:
        compiled: as JAX compiles it; what is computed again in the backward pass counts.
        device_kind: of what it runs on; None is this process's first device.
    """
    from trainer.train.costs import costs

    name = _KINDS.get(device_kind or jax.devices()[0].device_kind)
    if name is None:
        return 0.0
    return costs(compiled.as_text()).flops / (CHIPS[name].flops / CHIPS[name].cores)


def is_available() -> bool:
    """Whether libtpu is installed."""
    return importlib.util.find_spec("libtpu") is not None


def tpu_slice(topology: str) -> Slice:
    """The slice, described by libtpu. JAX itself must be at work on the CPU: see `ENVIRONMENT`.

    Raises:
        UsageError: if it does not exist, or libtpu is not installed or does not know it.
    """
    chip, count = parse(topology)
    if not is_available():
        raise UsageError("compiling for TPUs needs libtpu; `pip install 'open-unisim[tpu]'`")
    from jax.experimental import topologies

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as e:  # libtpu names what it does not know by errors of several kinds
        reason = str(e).splitlines()[0]
        raise UsageError(f"--topology {topology}: libtpu does not know it ({reason})") from e
    if len(found) != count * chip.cores:
        raise UsageError(
            f"--topology {topology}: libtpu describes {len(found)} devices, wanted"
            f" {count * chip.cores}; another version of it is needed"
        )
    each = chip.cores
    return Slice(
        topology=topology,
        devices=tuple(found),
        memory=chip.memory // each,
        flops=chip.flops / each,
        memory_rate=chip.memory_rate / each,
        link_rate=chip.link_rate / each,
    )
