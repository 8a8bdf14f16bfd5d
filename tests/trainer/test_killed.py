"""A run that was stopped, killed or spread over other processes ends like one that was not."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.command import ROOT
from tests.trainer import tiny_run as tiny
from trainer.train import Checkpoints, abstract
from trainer.train.setup import CONFIG

STEPS, SAVE_EVERY = 150, 10
FLAGS = f"""
    --config debug --tier 8x16 --frames 4 --tokens 8 --batch-size 4 --steps {STEPS}
    --save-every {SAVE_EVERY} --log-every 50 --keep 3 --learning-rate 1e-2 --ema-decay 0.9
    --model.channels 4 --model.multipliers 1 --model.attention 0 --model.heads 1
    --model.cond-width 8 --model.cond-mlp-layers 1 --model.control-width 8 --model.dropout 0.1
    --model.history-frames 2 --model.norm-groups 1 --model.patch 4 --weights moving 1 still 0.5
""".split()
TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return tiny.table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """Starts `unisim train` into a folder, as a process of its own."""
    cache = str(tmp_path_factory.getbasetemp() / "compiled-by-commands")
    running: list[subprocess.Popen] = []

    def begin(out: Path, *flags: str, **environment: str) -> subprocess.Popen:
        known = {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, "-m", "infra.cli", "train", "--data", data, "--out", str(out)]
        process = subprocess.Popen(
            [*command, *FLAGS, *flags],
            cwd=ROOT,
            env={**os.environ, **known, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def _end(process: subprocess.Popen) -> str:
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def straight(start, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "straight"
    _end(start(out))
    return out


def _same(run: Path, straight: Path, steps: int = STEPS) -> None:
    """Parameters, average, moments and the loss of every step, bit for bit."""
    states = []
    for folder in (run, straight):
        with Checkpoints(folder, keep=None) as checkpoints:
            assert checkpoints.latest() == steps
            state, place = checkpoints.restore(steps, abstract(checkpoints.info(steps).config))
        assert place == {"next_index": steps}
        states.append(jax.tree_util.tree_leaves_with_path(state))
    assert len(states[0]) == len(states[1]) > 50
    for (path, one), (_, other) in zip(*states, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), path
    for name in ("metrics.jsonl", CONFIG):
        assert (run / name).read_bytes() == (straight / name).read_bytes(), name


def _wait(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.001)


def _steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _saving(run: Path) -> bool:
    folder = run / "checkpoints"
    return folder.exists() and any("tmp" in path.name for path in folder.iterdir())


def test_sigterm_saves_at_once_and_the_same_command_goes_on(start, straight, tmp_path):
    out = tmp_path / "run"
    process = start(out)
    _wait(process, lambda: _steps(out) > 27)
    process.send_signal(signal.SIGTERM)
    said = _end(process)
    with Checkpoints(out, keep=None) as checkpoints:
        saved = checkpoints.latest()
    assert saved is not None and saved == _steps(out) < STEPS
    assert f"stopped by SIGTERM: step {saved} is saved" in said
    process = start(out, "--stopped-code", "75", "--steps", "1000")
    _wait(process, lambda: _steps(out) > saved)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 75
    # the second stop was perhaps after the last step that is wanted
    if _steps(out) < STEPS:
        assert f"resuming {out} at step {_steps(out)}" in _end(start(out))
        _same(out, straight)


def test_sigkill_at_any_moment_loses_nothing_but_time(start, straight, tmp_path):
    out, draw, killed = tmp_path / "run", random.Random(8), []
    for kill in range(5):
        process = start(out)
        wanted = 25 * kill + draw.randrange(12, 25)
        _wait(process, lambda wanted=wanted: _steps(out) >= wanted)
        if kill in (1, 3):
            _wait(process, lambda: _saving(out))
        else:
            time.sleep(draw.random() / 20)
        process.kill()
        process.communicate()
        killed.append((_steps(out), _saving(out)))
    assert all(0 < steps < STEPS for steps, _ in killed), killed
    assert any(saving for _, saving in killed), killed
    said = _end(start(out))
    assert "resuming" in said and "WARNING" not in said
    _same(out, straight)


def test_from_one_process_to_two_and_back(start, tmp_path):
    """Two devices each time, so that sums have the same parts."""
    straight, out = tmp_path / "straight", tmp_path / "run"
    _end(start(straight, "--steps", "40", **TWO_DEVICES))
    _end(start(out, "--steps", "8", **TWO_DEVICES))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = ("--coordinator", address, "--processes", "2", "--steps", "40", "--process")
    one_device = {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    pair = [start(out, *flags, str(i), **one_device) for i in range(2)]
    _wait(pair[0], lambda: _steps(out) > 10)
    pair[1].send_signal(signal.SIGTERM)  # one of them is asked, both save and end
    said = [_end(process) for process in pair]
    saved = _steps(out)
    assert 10 < saved < 40 and f"stopped by SIGTERM: step {saved} is saved" in said[0]
    assert f"resuming {out} at step 8" in said[0] and "step" not in said[1]
    assert f"at step {saved}" in _end(start(out, "--steps", "40", **TWO_DEVICES))
    _same(out, straight, 40)
