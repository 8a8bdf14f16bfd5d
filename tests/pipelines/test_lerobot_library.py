"""Datasets that the `lerobot` library wrote, against what the library itself reads back.

`make lerobot` runs it: the library needs an environment of its own, for it brings PyTorch, and the
variable UNISIM_LEROBOT_PYTHON names that Python. Without it the tests are skipped. lerobot 0.4
writes format v3.0, 0.3.3 writes v2.1.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from schemas import SLOTS, Tier
from tests.command import unisim
from tests.table import read_table

LENGTHS = (20, 17, 23)
VIEWS = ("front", "wrist")
FORMATS = {"v2.1": "2.1.0", "v3.0": "3.0.0"}
SLOT_NAMES = [slot.name for slot in SLOTS]
FILLED = [SLOT_NAMES.index(name) for name in (*(f"joint_{i}" for i in range(1, 6)), "gripper")]


@pytest.fixture(scope="module", params=["video", "image"])
def written(request, tmp_path_factory):
    """(kind, folder) of a dataset and of what the library reads of it."""
    python = os.environ.get("UNISIM_LEROBOT_PYTHON")
    if not python:
        pytest.skip("UNISIM_LEROBOT_PYTHON does not name a Python that has lerobot")
    folder = tmp_path_factory.mktemp(request.param)
    script = Path(__file__).with_name("lerobot_write.py")
    result = subprocess.run(
        [python, str(script), str(folder), request.param],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return request.param, folder


def test_every_frame_control_and_text_is_what_the_library_reads(written, tmp_path):
    kind, folder = written
    expected = np.load(folder / "expected.npz")
    out = tmp_path / "out"
    source = f"lerobot={folder / 'dataset'}"
    unisim(
        "prepare", "--source", source, "--out", out, "--fps", "lerobot=10", "--tier", "96x128:raw"
    )
    assert "0 violations" in unisim("audit", out).stdout
    chunks = read_table(out, Tier(96, 128, "raw"))
    assert {chunk.source_version for chunk in chunks} == {FORMATS[str(expected["format"])]}
    for number, n in enumerate(LENGTHS):
        actions, states = (expected[f"{number}/{x}"] for x in ("action", "observation.state"))
        assert len(actions) == n
        sent = np.concatenate([states[:1], actions[:-1]]).astype(np.float64)
        wanted = np.column_stack([np.deg2rad(sent[:, :5]), sent[:, 5] / 100])
        tasks = expected[f"{number}/task"].tolist()
        assert len(set(tasks)) == 2
        for view in VIEWS:
            mine = [chunk for chunk in chunks if chunk.episode_id == f"{number:06d}@{view}"]
            frames, values, times = (
                np.concatenate([getattr(chunk, name) for chunk in mine])
                for name in ("frames", "controls", "times")
            )
            texts = [chunk.text for chunk in mine for _ in range(chunk.num_frames)]
            assert texts == [tasks[0], *tasks[:-1]]
            np.testing.assert_allclose(times, np.arange(n) / 10, atol=1e-5)
            np.testing.assert_allclose(values[:, FILLED], wanted, atol=1e-5)
            assert all(chunk.control_mask.sum() == len(FILLED) for chunk in mine)
            check_pixels(kind, frames, expected[f"{number}/observation.images.{view}"])
    assert len({chunk.episode_id for chunk in chunks}) == len(LENGTHS) * len(VIEWS)


def check_pixels(kind: str, frames: np.ndarray, wanted: np.ndarray) -> None:
    """Images are equal. Of a video the two conversions to RGB round differently, so each frame must
    be close to the library's, and closer than to any other of the episode: the square moves."""
    assert frames.shape == wanted.shape
    if kind == "image":
        np.testing.assert_array_equal(frames, wanted)
        return
    distance = np.abs(frames[:, None].astype(np.int16) - wanted[None]).mean((2, 3, 4))
    assert distance.diagonal().max() < 2.0
    assert (distance.argmin(1) == np.arange(len(frames))).all()
