"""Eight simulated devices do what one does; what does not divide is refused."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer.train.sharding import Layout, divisors

PROGRAM = """
import dataclasses, sys
import jax, jax.numpy as jnp, numpy as np
from tests.trainer import tiny
from trainer.configs.config import TrainConfig
from trainer.train import abstract, graph_of, init, train_step
from trainer.train.preflight import batch_shapes
from trainer.train.sharding import Layout

kind = sys.argv[1]
changes = {"temporal": "convolution", "upscale": 2} if kind == "sr" else {}
model = tiny.config(blocks=2, dropout=0.2, scan=True, remat="blocks", **changes)
config = TrainConfig(
    model=model, tier="8x16", frames=4, tokens=8, batch_size=8, learning_rate=1e-4, clip_norm=1.0,
    action_dropout=0.5,
)
draw = np.random.default_rng(0)
batch = {
    name: draw.integers(0, 2, s.shape).astype(s.dtype) if s.dtype == bool
    else draw.integers(0, 255, s.shape).astype(s.dtype) if s.dtype != jnp.bfloat16
    else draw.normal(size=s.shape).astype(s.dtype)
    for name, s in batch_shapes(config).items()
}
empty = (draw.normal(size=(8, 12)).astype(np.float32), np.arange(8) < 1)

def run(layout):
    layout.check(config)
    shardings = layout.of(abstract(config))
    state = jax.jit(lambda: init(config), out_shardings=shardings)()
    step = jax.jit(
        train_step(config, graph_of(model), layout.placement),
        out_shardings=(shardings, layout.replicated),
    )
    losses, size = [], len(batch["frames"])
    for _ in range(5):
        state, metrics = step(state, layout.put(batch, size), layout.put_whole(empty))
        losses.append(float(metrics["loss"]))
    return state, losses

devices = jax.devices()
assert len(devices) == 8
one, wanted = run(Layout(devices[:1]))
many, losses = run(Layout(devices, 2, whole=256))
for part in (many.params, many.ema, many.optimizer):
    leaves = jax.tree.leaves(part)
    share = sum(x.addressable_shards[0].data.size for x in leaves) / sum(x.size for x in leaves)
    print("a device holds", share)
    assert share < 0.25, share  # an eighth, and what is too small to cut
for a, b in zip(losses, wanted, strict=True):
    assert abs(a - b) < 1e-5, (losses, wanted)

def distance(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)

params, ema = distance(many.params, one.params), distance(many.ema, one.ema)
moved = distance(one.params, init(config).params)
print(kind, "parameters differ by", params, "averages", ema, "moved by", moved)
assert params < 1e-5 and ema < 1e-5 and moved > 1e-4
"""


@pytest.mark.parametrize("kind", ["base", "sr"])
def test_eight_devices_take_the_same_five_steps_as_one(kind):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("parameters differ by") == 1


def test_on_one_device_nothing_is_cut():
    layout = Layout(jax.devices()[:1])
    [sharding] = jax.tree.leaves(layout.of({"a": np.zeros((1024, 1024))}))
    assert sharding.is_fully_replicated
    x = jnp.ones((2, 4, 6, 3))
    assert layout.placement.frames(x) is x


def test_the_last_dimension_is_cut_only_if_no_other_can_be():
    layout = Layout.__new__(Layout)  # eight devices that this process has not
    layout.mesh = jax.sharding.AbstractMesh((4, 2), ("data", "model"))  # type: ignore[assignment]
    layout._whole = 64
    both = ("data", "model")
    assert layout._spec((3, 3, 3, 16, 64)) == jax.P(None, None, None, both)
    assert layout._spec((3, 12, 64)) == jax.P(None, None, both)
    assert layout._spec((16, 32, 8)) == jax.P(None, both)
    assert layout._spec((8,)) == jax.P() and layout._spec((3, 7, 9)) == jax.P()


def test_what_does_not_divide_by_all_devices_is_cut_by_each_axis_as_it_can():
    layout = Layout.__new__(Layout)
    layout.mesh = jax.sharding.AbstractMesh((256, 4), ("data", "model"))  # type: ignore[assignment]
    layout._whole = 1 << 16
    data, model = ("data",), ("model",)
    assert layout._spec((3, 3, 3, 1536, 768)) in (
        jax.P(None, None, None, data, model),
        jax.P(None, None, None, model, data),
    )
    assert layout._spec((3, 1152, 1152)) == jax.P(None, model)
    assert layout._spec((3, 1024, 1152)) == jax.P(None, ("data", "model"))


def test_what_does_not_divide_is_refused():
    with pytest.raises(UsageError, match=r"--model-axis 3 does not divide 1 devices; wanted.* 1$"):
        Layout(jax.devices()[:1], 3)
    layout = Layout(jax.devices()[:1])
    layout.mesh = jax.sharding.AbstractMesh((4, 3), ("data", "model"))  # type: ignore[assignment]
    with pytest.raises(UsageError, match=r"batch of 6 does not divide over 4 .*--model-axis"):
        layout.check(tiny.config(batch_size=6))
    with pytest.raises(UsageError, match=r"4 frames do not divide.*3; wanted one of 1, 2, 4"):
        layout.check(tiny.config(batch_size=8))
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
