"""Videos that are written: equal pictures give equal bytes, whatever lies in memory."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.ops import video
from tests.command import ROOT

FILLS = (85, 170)


def digest_of_clips(codec: str, folder: str) -> str:
    """Hex digest of sixty clips of squares that move."""
    rng = np.random.default_rng(3)
    state = hashlib.blake2b(digest_size=16)
    path = Path(folder, "clip")
    for number in range(60):
        height, width = [(48, 64), (24, 40), (36, 50)][number % 3]
        x, y = rng.integers(0, 16), rng.integers(0, height - 8)
        images = np.full((12, height, width, 3), rng.integers(0, 60, 3), np.uint8)
        for i, image in enumerate(images):
            image[y : y + 16, x + i : x + i + 16] = (220, 200, 60)
        video.write_video(str(path), images, 10.0, codec)
        state.update(path.read_bytes())
    return state.hexdigest()


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_no_byte_comes_from_memory_that_nobody_has_written(codec, tmp_path):
    """glibc fills what it hands out, with another byte in every process."""
    code = f"from {__name__} import digest_of_clips as d; print(d({codec!r}, {str(tmp_path)!r}))"
    found = set()
    for fill in FILLS:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "MALLOC_PERTURB_": str(fill), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout.strip())
    assert len(found) == 1
