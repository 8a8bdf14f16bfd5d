"""A damaged checkpoint is noticed and set aside, and the run ends like one that never had it."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer.simulate.stage import describe, load_stage
from trainer.train import Checkpoints, abstract, train
from trainer.train.checksum import checksums, damaged
from trainer.train.damage import Damaged

STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.table(tmp_path_factory.mktemp("table"))


def _train(data, out, steps=STEPS):
    said = []
    train(tiny.config(steps=steps), data=data, out=out, say=said.append)
    return said


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """One of six steps, with checkpoints of the third and the sixth, and one of all eight."""
    folder = tmp_path_factory.mktemp("runs")
    _train(data, folder / "six", 6)
    _train(data, folder / "straight")
    return folder


def _bytes(run):
    with Checkpoints(run, keep=None) as checkpoints:
        state, _ = checkpoints.restore(STEPS, abstract(checkpoints.info(STEPS).config))
    leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return leaves, (run / "metrics.jsonl").read_bytes()


def _largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _flip(file):
    """One bit in the middle of a file."""
    found = bytearray(file.read_bytes())
    found[len(found) // 2] ^= 1
    file.write_bytes(found)


DAMAGE = {
    "a bit of the parameters": lambda step: _flip(_largest(step / "params")),
    "a bit of the average": lambda step: _flip(_largest(step / "ema")),
    "a bit of the moments": lambda step: _flip(_largest(step / "optimizer")),
    "a file cut short": lambda step: _largest(step / "params").write_bytes(b"short"),
    "a file gone": lambda step: _largest(step / "optimizer").unlink(),
    "a folder gone": lambda step: shutil.rmtree(step / "params"),
    "no JSON": lambda step: _largest(step / "run").write_text('{"config": {'),
    "another checksum": lambda step: _flip_a_digit(step / "checksums"),
}


def _flip_a_digit(folder):
    file = _largest(folder)
    text = file.read_text()
    file.write_text(text[:-2] + ("1" if text[-2] != "1" else "2") + text[-1])


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_newest_checkpoint_is_set_aside(runs, data, what, tmp_path):
    run = shutil.copytree(runs / "six", tmp_path / "run")
    DAMAGE[what](run / "checkpoints" / "6")
    said = "\n".join(_train(data, run))
    assert "WARNING" in said and "checkpoints/6: is damaged (" in said
    assert f"resuming {run} at step 3" in said and (run / "checkpoints" / "damaged-6").is_dir()
    assert _bytes(run) == _bytes(runs / "straight")


def test_nothing_whole_is_said_and_nothing_is_deleted(runs, data, tmp_path):
    run = shutil.copytree(runs / "six", tmp_path / "run")
    for step in ("3", "6"):
        _flip(_largest(run / "checkpoints" / step / "params"))
    with pytest.raises(UsageError, match=r"none of its checkpoints is whole.*damaged-6, damaged-3"):
        _train(data, run)
    assert {p.name for p in (run / "checkpoints").iterdir()} >= {"damaged-3", "damaged-6"}


def test_what_simulates_is_checked_too(runs, tmp_path):
    run = shutil.copytree(runs / "six", tmp_path / "run")
    _flip(_largest(run / "checkpoints" / "6" / "ema"))
    with Checkpoints(run, keep=None) as checkpoints:
        config = checkpoints.info(6).config
        with pytest.raises(Damaged, match=r"checkpoints/6: is damaged"):
            checkpoints.ema(6, config)
        checkpoints.ema(3, config)


def test_checkpoints_that_are_multiples_stay(data, tmp_path):
    config = tiny.config(steps=9, save_every=1, keep=2, keep_every=3)
    train(config, data=data, out=tmp_path, say=lambda _: None)
    kept = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    # the first is a multiple too, of step 0 on
    assert kept - {1} == {3, 6, 8, 9}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_single_bit_is_missed(data):
    dtype = data.draw(st.sampled_from(["float32", "int32", "bfloat16", "uint8", "bool"]))
    shape = data.draw(st.lists(st.integers(1, 5), min_size=0, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    bits = rng.integers(0, 2 if dtype == "bool" else 256, (*shape, jnp.dtype(dtype).itemsize))
    raw = bits.astype(np.uint8)

    def tree():
        return {"a": jnp.asarray(raw.reshape(-1).view(jnp.dtype(dtype)).reshape(shape))}

    before = checksums(tree())
    assert damaged(tree(), before) == []
    place = data.draw(st.integers(0, raw.size - 1))
    raw.reshape(-1)[place] ^= 1 if dtype == "bool" else 1 << data.draw(st.integers(0, 7))
    assert damaged(tree(), before) == ["['a']"]
    assert damaged({}, before) == ["['a']"]


def test_a_simulator_says_what_to_do_about_a_damaged_checkpoint(runs, tmp_path):
    run = shutil.copytree(runs / "six", tmp_path / "run")
    encoder = describe(run)[1].encoder
    _flip(_largest(run / "checkpoints" / "6" / "ema"))
    with pytest.raises(UsageError, match=r"6: is damaged .*; restore it from a copy, or give its"):
        load_stage(run, encoder)
    shutil.rmtree(run / "checkpoints" / "6" / "run")
    with pytest.raises(UsageError, match=r"6: is damaged .*; restore it from a copy, or give its"):
        describe(run)
