"""`preflight`: the exact training step, compiled for TPUs that are not there.

libtpu compiles for any slice ahead of time. Every figure of a `Report` is read off the compiled
program, but for the chip's own (`trainer.train.chips`) and the efficiency, which is stated.
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from schemas import NUM_SLOTS, Tier, UsageError
from trainer.configs.config import TrainConfig
from trainer.model.placement import DATA, MODEL
from trainer.train.chips import Slice, tpu_slice
from trainer.train.costs import costs
from trainer.train.sharding import Layout, divisors
from trainer.train.state import abstract, graph_of
from trainer.train.step import train_step

PAPER_DAYS = 20.0
"""What the paper's base model took: 1 M steps on 512 TPU-v3 chips."""

_GIB = 1 << 30
_STEPS = 1_000_000
_T5_XXL_WIDTH = 4096  # where a config leaves the width to the table
# what may not grow, with --against
WATCHED = ("parameters", "arguments", "temporaries", "peak", "flops", "exchanged")
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What one training step takes of each device (a chip, or one of a chip's two cores).

    Attributes:
        config: its name. topology: "v3:16x32". data, model: the mesh.
        batch_size: samples of a step, over all devices.
        parameters: of the model.
        memory: bytes of HBM of a device.
        arguments, temporaries, output, aliased, code, peak: bytes that the program uses; peak is of
            all at once. All but `peak` are 0 if the compiler gave up for want of memory.
        flops: of matrix products and convolutions. moved: bytes to and from HBM.
        exchanged: bytes received from other devices. collectives: kind -> count and bytes.
        compute, hbm, links: seconds that each of these three would take alone, at full rate.
        efficiency: the stated share of the full rate.
        compiled: seconds that compiling took here.
    """

    config: str
    topology: str
    devices: int
    data: int
    model: int
    batch_size: int
    parameters: int
    memory: int
    peak: int
    arguments: int = 0
    temporaries: int = 0
    output: int = 0
    aliased: int = 0
    code: int = 0
    flops: float = 0.0
    moved: float = 0.0
    exchanged: float = 0.0
    collectives: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    compute: float = 0.0
    hbm: float = 0.0
    links: float = 0.0
    efficiency: float
    compiled: float

    @property
    def fits(self) -> bool:
        """Whether the step runs within a device's memory."""
        return self.peak <= self.memory

    @property
    def binds(self) -> str:
        """What limits the step: memory that is not there, or the slowest of the three rates."""
        if not self.fits:
            return "memory"
        times = {"compute": self.compute, "hbm": self.hbm, "interconnect": self.links}
        return max(times, key=lambda name: times[name])

    @property
    def seconds(self) -> float:
        """Of a step at full rate, everything overlapping."""
        return max(self.compute, self.hbm, self.links)

    @property
    def days(self) -> float:
        """Of a million steps at the stated efficiency."""
        return self.seconds / self.efficiency * _STEPS / 86400

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with what follows from them."""
        derived = ("fits", "binds", "seconds", "days")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        gib = {n: f"{getattr(self, n) / _GIB:.2f}" for n in ("arguments", "temporaries", "peak")}
        lines = [
            f"{self.config} on {self.topology}: {self.devices} devices, mesh data={self.data},"
            f"model={self.model}, batch {self.batch_size}",
            f"  parameters    {self.parameters / 1e9:.4g} B",
            f"  GiB a device  arguments {gib['arguments']}, temporaries {gib['temporaries']}, peak"
            f" {gib['peak']} of {self.memory / _GIB:.0f}",
        ]
        if self.flops:
            lines += self._rates()
        verdict = "fits" if self.fits else "does not fit"
        return "\n".join([*lines, f"  verdict       {verdict}; {self.binds} binds"])

    def _rates(self) -> list[str]:
        kinds = ", ".join(
            f"{kind} {c['count']:.0f} x, {c['bytes'] / 1e9:.3g} GB"
            for kind, c in self.collectives.items()
        )
        return [
            f"  a step        {self.flops / 1e12:.4g} TFLOP, {self.moved / 1e9:.4g} GB of HBM,"
            f" {self.exchanged / 1e9:.4g} GB received",
            f"  collectives   {kinds or 'none'}",
            f"  roofline      compute {self.compute:.3g} s, HBM {self.hbm:.3g} s, interconnect"
            f" {self.links:.3g} s",
            f"  step time     {self.seconds:.3g} s at 100%, {self.seconds / self.efficiency:.3g} s"
            f" at {self.efficiency:.0%}: {self.days:.3g} days for 1 M steps (the paper's"
            f" base model: {PAPER_DAYS:.0f})",
            f"  compiled in   {self.compiled:.0f} s",
        ]


def preflight(
    name: str,
    config: TrainConfig,
    topology: str,
    *,
    mesh: Mapping[str, int] | None = None,
    efficiency: float = 0.4,
    say: Say = lambda _: None,
) -> Report:
    """Compiles a config's step for a slice.

    Args:
        name: the config's.
        mesh: devices over "data" and "model"; None tries those that divide, from the least "model"
            up, until one fits, and returns the last.
        efficiency: share of the full rate that days are counted at.
        say: takes a line of progress.

    Raises:
        UsageError: for a slice that does not exist, a mesh or batch that do not divide, or frames
            that the U-Net cannot halve; all before anything is compiled.
    """
    if not 0 < efficiency <= 1:
        raise UsageError(f"--efficiency is {efficiency}, wanted more than 0 and at most 1")
    tier = Tier.parse(config.tier)
    config.model.check_frames(tier.height, tier.width)
    if not config.model.text_width:
        model = dataclasses.replace(config.model, text_width=_T5_XXL_WIDTH)
        config = dataclasses.replace(config, model=model)
    on = tpu_slice(topology)
    sizes = [_given(mesh, config, on)] if mesh else candidates(config, len(on.devices), topology)
    for model in sizes:
        layout = Layout(on.devices, model)
        layout.check(config)
        say(f"compiling {name} for {topology}, data={len(on.devices) // model},model={model}")
        report = _compile(name, config, on, layout, efficiency)
        if report.fits:
            break
        say(f"needs {report.peak / _GIB:.2f} GiB of {report.memory / _GIB:.0f}")
    return report  # pyright: ignore[reportPossiblyUnboundVariable]


def candidates(config: TrainConfig, devices: int, topology: str) -> list[int]:
    """Sizes of "model" that divide frames and devices and leave a "data" that divides the batch.

    Raises:
        UsageError: if there are none.
    """
    batch = config.batch_size
    suits = [m for m in divisors(config.frames) if devices % m == 0]
    found = [m for m in suits if batch % (devices // m) == 0]
    if not found:
        least = devices // max(suits)
        raise UsageError(
            f"--batch-size {batch} does not divide over the {devices} devices of {topology}, of"
            f" which at most {max(suits)} can share a sample of {config.frames} frames; wanted a"
            f" multiple of {least}"
        )
    return found


def _given(mesh: Mapping[str, int], config: TrainConfig, on: Slice) -> int:
    devices = len(on.devices)
    if mesh[DATA] * mesh[MODEL] != devices:
        raise UsageError(
            f"--mesh data={mesh[DATA]},model={mesh[MODEL]} has {mesh[DATA] * mesh[MODEL]} devices,"
            f" but {on.topology} has {devices}"
        )
    return mesh[MODEL]


def batch_shapes(config: TrainConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch as the loader makes it."""
    b, t, k = config.batch_size, config.frames, config.model.history_frames
    tier, l = Tier.parse(config.tier), config.tokens  # noqa: E741
    pixels = (tier.height, tier.width, 3)
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "frames": ((b, t, *pixels), np.uint8),
        "frame_mask": ((b, t), np.bool_),
        "history": ((b, k, *pixels), np.uint8),
        "history_mask": ((b, k), np.bool_),
        "tokens": ((b, l, config.model.text_width), ml_dtypes.bfloat16),
        "token_mask": ((b, l), np.bool_),
        "controls": ((b, t, NUM_SLOTS), np.int32),
        "control_mask": ((b, NUM_SLOTS), np.bool_),
    }
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}


def _compile(
    name: str, config: TrainConfig, on: Slice, layout: Layout, efficiency: float
) -> Report:
    if config.model.conv == "auto":  # which is decided by where JAX runs, and that is here
        model = dataclasses.replace(config.model, conv="native")
        config = dataclasses.replace(config, model=model)
    state = layout.shaped(abstract(config))
    shapes = batch_shapes(config)
    batch = {
        n: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=layout.batch) for n, s in shapes.items()
    }
    empty = tuple(
        jax.ShapeDtypeStruct(shape, dtype, sharding=layout.replicated)
        for shape, dtype in (
            ((config.tokens, config.model.text_width), jnp.bfloat16),
            ((config.tokens,), np.bool_),
        )
    )
    step = jax.jit(
        train_step(config, graph_of(config.model), layout.placement),
        donate_argnums=0,
        out_shardings=(layout.of(abstract(config)), layout.replicated),
    )
    since = time.perf_counter()
    known = {
        "config": name,
        "topology": on.topology,
        "devices": len(on.devices),
        "data": layout.mesh.shape[DATA],
        "model": layout.mesh.shape[MODEL],
        "batch_size": config.batch_size,
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)),
        "memory": on.memory,
        "efficiency": efficiency,
    }
    try:
        compiled = step.lower(state, batch, empty).compile()
    except jax.errors.JaxRuntimeError as e:
        return Report(**known, peak=_wanted(e), compiled=time.perf_counter() - since)
    return _read(compiled, on, known, time.perf_counter() - since)


def _read(compiled: Any, on: Slice, known: dict[str, Any], seconds: float) -> Report:
    used, spent = compiled.memory_analysis(), costs(compiled.as_text())
    arguments, output = used.argument_size_in_bytes, used.output_size_in_bytes
    temporaries, aliased = used.temp_size_in_bytes, used.alias_size_in_bytes
    code = used.generated_code_size_in_bytes
    return Report(
        **known,
        arguments=arguments,
        temporaries=temporaries,
        output=output,
        aliased=aliased,
        code=code,
        peak=arguments + temporaries + output - aliased + code,
        flops=spent.flops,
        moved=spent.memory,
        exchanged=spent.exchanged,
        collectives={k: dataclasses.asdict(c) for k, c in spent.collectives.items()},
        compute=spent.flops / on.flops,
        hbm=spent.memory / on.memory_rate,
        links=spent.exchanged / on.link_rate,
        compiled=seconds,
    )


def _wanted(error: Exception) -> int:
    """Bytes that the compiler says the program would need. Raises the error if it is another."""
    found = re.search(r"Used ([\d.]+)([KMG]) of ([\d.]+)([KMG]) hbm", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or not found:
        raise error
    return int(float(found[1]) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}[found[2]])


def growth(report: Report, before: Mapping[str, Any], threshold: float) -> list[str]:
    """What has grown by more than `threshold` (0.05 is 5%) since an earlier report's `to_dict`.

    Raises:
        UsageError: if that was of another config, slice, mesh or batch, or is no report.
    """
    now = report.to_dict()
    for name in ("config", "topology", "data", "model", "batch_size"):
        if before.get(name) != now[name]:
            raise UsageError(
                f"--against: that report's {name} is {before.get(name)!r}, this one's is"
                f" {now[name]!r}; compare equal things"
            )
    try:
        pairs = {name: (float(before[name]), float(now[name])) for name in WATCHED}
    except (KeyError, TypeError, ValueError) as e:
        raise UsageError(f"--against: not a report of this version ({e}); write it anew") from e
    return [
        f"{name} {old:.4g} -> {new:.4g} (+{new / old - 1:.1%})" if old else f"{name} 0 -> {new:.4g}"
        for name, (old, new) in pairs.items()
        if new > old * (1 + threshold)
    ]
