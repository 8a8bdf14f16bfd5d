"""What a training step costs has not grown since the figures beside this file were written.

After a change that is meant to cost more, write them anew: the failure prints them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tests.trainer import tiny
from trainer.configs.config import TrainConfig
from trainer.train import chips
from trainer.train.costs import costs
from trainer.train.preflight import lower, parameters
from trainer.train.sharding import Layout

HERE = Path(__file__).parent
ALLOWED = 0.1
# as instructions, not as calls of a library whose products cannot be counted; machine code in a
# hurry, as it is never run
OPTIONS = {
    "xla_cpu_use_onednn": False,
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_backend_optimization_level": 0,
}


def step_costs(**changes) -> dict[str, float]:
    """Of a tiny config's step, compiled for one CPU."""
    model = tiny.config(
        multipliers=(1,), attention=(0,), blocks=2, scan=True, remat="blocks", **changes
    )
    config = TrainConfig(model=model, tier="8x16", frames=4, tokens=8, batch_size=2)
    compiled = lower(config, Layout(jax.devices()[:1])).compile(compiler_options=OPTIONS)
    used, spent = compiled.memory_analysis(), costs(compiled.as_text() or "")
    assert used is not None
    return {
        "parameters": parameters(config),
        "arguments": used.argument_size_in_bytes,
        "temporaries": used.temp_size_in_bytes,
        "flops": spent.flops,
    }


def test_a_small_step_on_cpu_has_not_grown():
    before = json.loads((HERE / "growth_cpu.json").read_text())
    now = step_costs()
    grown = [name for name in before if now[name] > before[name] * (1 + ALLOWED)]
    assert not grown, f"{grown} grew: {json.dumps(now)}"


@pytest.mark.skipif(
    not chips.is_available(), reason="libtpu is not installed (pip install 'open-unisim[tpu]')"
)
def test_the_debug_config_on_the_smallest_slice_has_not_grown():
    earlier = HERE / "growth_v5e_2x2.json"
    flags = "--config debug --topology v5e:2x2 --batch-size 8 --json".split()
    found = subprocess.run(
        [sys.executable, "-m", "infra.cli", "preflight", *flags, "--against", str(earlier)],
        capture_output=True,
        text=True,
        env=os.environ | chips.ENVIRONMENT,
    )
    assert found.returncode == 0, found.stderr + found.stdout
