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
from trainer.train.chips import Slice, parse, tpu_slice
from trainer.train.costs import costs
from trainer.train.report import Report
from trainer.train.sharding import Layout, divisors
from trainer.train.state import abstract, graph_of
from trainer.train.step import train_step

EFFORTS = {"least": {"xla_optimization_level": "EFFORT_O0"}, "full": {}}
"""Options of the compiler. The least effort writes slower machine code for the same arrays,
products and exchanges, in a fraction of the time; training compiles in full."""

_GIB = 1 << 30
_T5_XXL_WIDTH = 4096  # where a config leaves the width to the table
Say = Callable[[str], None]


def preflight(
    name: str,
    config: TrainConfig,
    topology: str,
    *,
    mesh: Mapping[str, int] | None = None,
    efficiency: float = 0.4,
    effort: str = "least",
    say: Say = lambda _: None,
) -> Report:
    """Compiles a config's step for a slice.

    Args:
        name: the config's.
        mesh: devices over "data" and "model"; None tries those that divide, from the least "model"
            up, until one fits, and returns the last.
        efficiency: share of the full rate that days are counted at.
        effort: the compiler's, of `EFFORTS`.
        say: takes a line of progress.

    Raises:
        UsageError: for a slice that does not exist, a mesh or batch that do not divide, or frames
            that the U-Net cannot halve; all before anything is compiled.
    """
    if not 0 < efficiency <= 1:
        raise UsageError(f"--efficiency is {efficiency}, wanted more than 0 and at most 1")
    if effort not in EFFORTS:
        raise UsageError(f"--effort is {effort!r}, wanted one of {', '.join(EFFORTS)}")
    if not config.model.text_width:
        model = dataclasses.replace(config.model, text_width=_T5_XXL_WIDTH)
        config = dataclasses.replace(config, model=model)
    chip, count = parse(topology)
    sizes = meshes(config, count * chip.cores, topology, mesh)
    on = tpu_slice(topology)
    for model in sizes:
        layout = Layout(on.devices, model)
        say(f"compiling {name} for {topology}, data={len(on.devices) // model},model={model}")
        report = _compile(name, config, on, layout, efficiency, effort)
        if report.fits:
            break
        say(f"needs {report.peak / _GIB:.2f} GiB of {report.memory / _GIB:.0f}")
    return report  # pyright: ignore[reportPossiblyUnboundVariable]


def meshes(
    config: TrainConfig, devices: int, topology: str, mesh: Mapping[str, int] | None = None
) -> list[int]:
    """Sizes of "model" to try: that of the mesh, or of `--model-axis`, or all that divide.

    Raises:
        UsageError: if frames cannot be halved, or no size divides frames and devices and leaves a
            "data" that divides the batch.
    """
    tier = Tier.parse(config.tier)
    config.model.check_frames(tier.height, tier.width)
    batch, model = config.batch_size // config.accumulate, config.model_axis
    suits = [m for m in divisors(config.frames) if devices % m == 0]
    found = [m for m in suits if batch % (devices // m) == 0]
    if not found:
        least = devices // max(suits)
        raise UsageError(
            f"--batch-size {batch} does not divide over the {devices} devices of {topology}, of"
            f" which at most {max(suits)} can share a sample of {config.frames} frames; wanted a"
            f" multiple of {least}"
        )
    if mesh is None and model == 1:
        return found
    data, model = (mesh[DATA], mesh[MODEL]) if mesh else (devices // model, model)
    if data * model != devices or model not in found:
        raise UsageError(
            f"data={data},model={model} does not divide the {devices} devices of {topology}, a"
            f" batch of {batch} and {config.frames} frames; wanted --mesh"
            f" {' or '.join(f'data={devices // m},model={m}' for m in found)}"
        )
    return [model]


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


def parameters(config: TrainConfig) -> int:
    """How many the model has."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(abstract(config).params))


def lower(config: TrainConfig, layout: Layout) -> jax.stages.Lowered:
    """The training step for the devices of a layout, traced but not yet compiled."""
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
    return step.lower(state, batch, empty)


def _compile(
    name: str, config: TrainConfig, on: Slice, layout: Layout, efficiency: float, effort: str
) -> Report:
    if config.model.conv == "auto":  # which is decided by where JAX runs, and that is here
        model = dataclasses.replace(config.model, conv="native")
        config = dataclasses.replace(config, model=model)
    since = time.perf_counter()
    known = {
        "config": name,
        "topology": on.topology,
        "devices": len(on.devices),
        "data": layout.mesh.shape[DATA],
        "model": layout.mesh.shape[MODEL],
        "batch_size": config.batch_size,
        "parameters": parameters(config),
        "memory": on.memory,
        "efficiency": efficiency,
        "effort": effort,
    }
    try:
        compiled = lower(config, layout).compile(compiler_options=EFFORTS[effort])
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
