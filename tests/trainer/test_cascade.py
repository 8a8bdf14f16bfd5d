"""A base model and a super-resolution model as one simulator, many episodes side by side."""

from __future__ import annotations

import dataclasses
import gc

import jax
import numpy as np
import pytest

from schemas import NUM_SLOTS, Tier, UsageError
from tests.trainer import tiny_run as tiny
from trainer.data import Embeddings, Table
from trainer.data.fake import FakeSpec, write_fake_table
from trainer.simulate import Controls, SamplerSpec, Simulator, load_start, stream
from trainer.train import train

LEFT, UP = "push the red block left", "push the red block up"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")
    spec = FakeSpec(tiers=("8x16:raw", "16x32:raw"), episodes=5, images=4, width=8)
    return str(write_fake_table(tmp_path_factory.mktemp("table"), 0, spec))


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    model = dataclasses.replace(tiny.CONFIG.model, temporal="convolution", upscale=2)
    fine = tiny.config(tier="16x32", model=model)
    for name, config in (("base", tiny.CONFIG), ("fine", fine)):
        result = train(config, data=data, out=folder / name, say=lambda _: None)
        assert result.step == 6 and np.isfinite(result.last_loss)
    return folder / "base", folder / "fine"


def simulator(runs, data, **changes) -> Simulator:
    embeddings = Embeddings.of(Table(data, "8x16"))
    return Simulator(
        runs[0],
        lambda texts: [embeddings.lookup(text) for text in texts],
        embeddings.info,
        SamplerSpec(**{"method": "dpm", "steps": 3, **changes}),
        runs[1:],
    )


@pytest.fixture(scope="module")
def cascade(runs, data):
    return simulator(runs, data)


@pytest.fixture(scope="module")
def starts(data):
    return np.stack([load_start(data, Tier.parse("16x32"))] * 2)


def test_the_cascade_makes_frames_of_its_finest_model(cascade, starts):
    frames = list(stream(cascade, starts, [[LEFT, UP], [UP, UP]]))
    assert [f.shape for f in frames] == [(2, 4, 16, 32, 3)] * 2
    assert frames[0].dtype == np.uint8 and frames[0].std() > 1
    assert (frames[0] != frames[1]).any()
    again = next(stream(cascade, starts, [[LEFT, UP]]))
    np.testing.assert_array_equal(again, frames[0])


def test_both_models_matter_and_so_does_the_noise_between_them(runs, data, cascade, starts):
    first = next(stream(cascade, starts, [[LEFT, UP]]))
    other = next(stream(simulator(runs, data, low_noise=0.9), starts, [[LEFT, UP]]))
    assert (other != first).any()
    params = cascade._stages[0].params
    scaled = jax.tree.map(lambda x: 1.5 * x, params)
    cascade._stages[0] = dataclasses.replace(cascade._stages[0], params=scaled)
    changed = next(stream(cascade, starts, [[LEFT, UP]]))
    cascade._stages[0] = dataclasses.replace(cascade._stages[0], params=params)
    assert (changed != first).any()


def test_a_long_rollout_compiles_once_and_keeps_only_the_history(cascade, starts):
    def held() -> int:
        gc.collect()
        return sum(x.nbytes for x in jax.live_arrays())

    compiled, sizes = cascade.compilations, []
    for i, frames in enumerate(stream(cascade, starts, ([LEFT, UP] for _ in range(12)))):
        assert frames.shape == (2, 4, 16, 32, 3)
        del frames
        if i in (1, 11):
            sizes.append(held())
    assert cascade.compilations - compiled <= 1
    assert sizes[0] == sizes[1]


def test_an_action_can_be_controls_alone(cascade, starts):
    history = np.repeat(starts[:, :1], 2, 1)
    there, key = np.ones((2, 2), bool), jax.random.key(0)
    mask = np.zeros((2, NUM_SLOTS), bool)
    mask[:, :2] = True
    few, many = (np.full((2, 4, NUM_SLOTS), n, np.int32) for n in (10, 4000))
    one, two = (
        cascade.step(history, there, ["", ""], key, Controls(bins, mask)) for bins in (few, many)
    )
    assert (one != two).any()
    with pytest.raises(UsageError, match="--action is empty"):
        cascade.step(history, there, ["", ""], key, Controls(few, np.zeros_like(mask)))


def test_runs_that_form_no_cascade_are_refused(runs, data, cascade, starts):
    base, fine = runs
    with pytest.raises(UsageError, match=r"is a super-resolution run; --checkpoint wants a base"):
        simulator((fine,), data)
    with pytest.raises(UsageError, match=r"makes 8x16 of 1x smaller .* makes 8x16; .*--finer"):
        simulator((base, base), data)
    with pytest.raises(UsageError, match=r"makes 16x32 of 2x smaller .* makes 16x32"):
        simulator((base, fine, fine), data)
    with pytest.raises(UsageError, match="step 0 has 1 actions for 2 starts"):
        next(stream(cascade, starts, [[LEFT]]))
    with pytest.raises(UsageError, match="--low-noise is 2"):
        SamplerSpec(low_noise=2)
