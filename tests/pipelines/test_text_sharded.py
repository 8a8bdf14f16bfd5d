"""The encoder on eight devices is the encoder on one."""

import os
import subprocess
import sys

import pytest

from pipelines.text.config import T5Config
from pipelines.text.sharding import divides, make_mesh, model_devices
from schemas import UsageError
from tests.samples import sample

PROGRAM = """
import pathlib, sys, tempfile
import jax, numpy as np
from pipelines.text import TextEncoder
from pipelines.text.sharding import make_mesh
from tests.pipelines.t5_directory import write_random

assert len(jax.devices()) == 8
texts = [f"pick up block {i} and put it {'left ' * (i % 40)}" for i in range(75)] + [""]
with tempfile.TemporaryDirectory() as folder:
    path = write_random(pathlib.Path(folder, "t5"), pathlib.Path(sys.argv[1]))
    one = TextEncoder.load(path, mesh=make_mesh(1, 1)).embed(texts)
    for data, model in [(8, 1), (4, 2), (2, 4), (1, 8)]:
        encoder = TextEncoder.load(path, mesh=make_mesh(data, model))
        shards = {
            name: len({str(s.index) for s in value.addressable_shards})
            for name, value in encoder._params.items()
            if value.ndim == 2
        }
        assert set(shards.values()) == {model}, shards
        rows = encoder.embed(texts)
        worst = max(float(np.abs(a - b).max()) for a, b in zip(rows, one))
        print(data, model, worst)
    rows = TextEncoder.load(path).embed(texts)
    print("chosen", 0, max(float(np.abs(a - b).max()) for a, b in zip(rows, one)))
"""


def test_eight_devices_give_what_one_gives():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(sample("t5/vocabulary/spiece.model"))],
        capture_output=True,
        text=True,
        env=os.environ | flags,
    )
    assert run.returncode == 0, run.stderr
    found = [line.split() for line in run.stdout.splitlines()]
    assert [line[:2] for line in found] == [
        ["8", "1"],
        ["4", "2"],
        ["2", "4"],
        ["1", "8"],
        ["chosen", "0"],
    ]
    assert all(float(line[2]) <= 1e-5 for line in found), run.stdout


def test_a_mesh_that_does_not_suit_is_one_line():
    config = T5Config.from_json(sample("t5/t5_v1_1_xxl_config.json").read_bytes())
    assert divides(config, 64) and not divides(config, 3)
    with pytest.raises(UsageError, match=r"a mesh of 2 x 99 devices .* are there"):
        make_mesh(2, 99)


def test_weights_are_cut_only_as_far_as_memory_asks():
    """Half of a device's memory is for weights, the rest for what they are used on."""
    config = T5Config.from_json(sample("t5/t5_v1_1_xxl_config.json").read_bytes())
    weights = 9 << 30
    found = {gib: model_devices(config, weights, 8, gib << 30) for gib in (20, 12, 8, 3, 1)}
    assert found == {20: 1, 12: 2, 8: 4, 3: 8, 1: 8}
    assert model_devices(config, weights, 8, None) == 1, "a CPU takes what it is given"
    assert model_devices(config, weights, 6, 1 << 30) == 2, "64 heads are not for three"
