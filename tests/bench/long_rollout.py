"""Whether a rollout's 64th step costs what its second does: memory, and the process's seconds."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from tests.bench.timing import Row, progress, status_mb
from trainer.configs.debug import CONFIG
from trainer.data import Embeddings, Table
from trainer.data.fake import FakeSpec, write_fake_table
from trainer.simulate import SamplerSpec, Simulator, load_start, stream
from trainer.train import train

_STEPS, _STARTS = 64, 2
_QUARTER = _STEPS // 4
_ACTIONS = ("push the red block left", "push the red block up")


def rows(folder: Path) -> Iterator[Row]:
    """A small model after one step of training; what it draws does not matter here."""
    table, run = write_fake_table(folder / "table", 0, FakeSpec()), folder / "run"
    small = dataclasses.replace(
        CONFIG.model, channels=16, multipliers=(1, 2), attention=(1,), heads=(1,)
    )
    config = dataclasses.replace(CONFIG, model=small, steps=1, save_every=1)
    train(config, data=str(table), out=run, say=lambda _: None)
    embeddings = Embeddings.of(Table(str(table)))
    simulator = Simulator(
        run,
        lambda texts: [embeddings.lookup(t) for t in texts],
        embeddings.info,
        SamplerSpec(method="dpm", steps=2),
    )
    start = np.stack([load_start(str(table), simulator.tier)] * _STARTS)
    resident, arrays, seconds = [], [], []
    began = time.process_time()
    for i, _ in enumerate(stream(simulator, start, [_ACTIONS] * _STEPS)):
        seconds.append(time.process_time() - began)
        gc.collect()
        resident.append(status_mb("VmRSS"))
        arrays.append(sum(a.nbytes for a in jax.live_arrays()) / 1e6)
        if (i + 1) % _QUARTER == 0:
            progress(f"rollout: step {i + 1}, {resident[-1]:.1f} MB, {arrays[-1]:.1f} in arrays")
        began = time.process_time()
    # the first step compiles
    early, late = np.median(seconds[1 : 1 + _QUARTER]), np.median(seconds[-_QUARTER:])
    name = f"rollout of {_STEPS} steps, {_STARTS} starts"
    compiled = f"{simulator.compilations} compiled"
    for what, (a, b), unit in (
        ("resident", (resident[1], resident[-1]), "MB"),
        ("JAX arrays", (arrays[1], arrays[-1]), "MB"),
        ("time", (early, late), "s"),
    ):
        yield Row(
            f"{name}: {what}",
            "its beginning",
            f"{b:.4g} {unit}",
            f"{a:.4g} {unit}",
            f"{a / b:.3f}x",
            compiled,
        )
