"""The XXL encoder compiled for TPU slices, on a machine without one."""

import os
import subprocess
import sys

import pytest

from pipelines.text import aot
from tests.samples import sample

pytestmark = pytest.mark.skipif(
    not aot.is_available(), reason="libtpu is not installed (pip install jax[tpu])"
)

PROGRAM = """
import pathlib, sys
from pipelines.text import aot
from pipelines.text.config import T5Config
from schemas import UsageError

config = T5Config.from_json(pathlib.Path(sys.argv[1]).read_bytes())
for topology in ("v5e:2x4", "v3:2x2"):
    found = aot.footprint(config, topology)
    print(found)
    assert found.fits, found
    # bfloat16 matrices, cut over "model", are nearly all of the arguments
    assert 4.7e9 * 2 / found.model < found.arguments < 4.8e9 * 2 / found.model, found
try:
    aot.footprint(config, "v5e:9x9x9")
except UsageError as e:
    print(e)
"""


def test_xxl_fits_v5e_2x4_and_v3_2x2():
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(sample("t5/t5_v1_1_xxl_config.json"))],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(": fits") == 2
    assert "TPU topology 'v5e:9x9x9'" in run.stdout.splitlines()[-1]
