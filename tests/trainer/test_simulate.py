"""A trained run simulates: right shapes, right history, files that decode, refusals that help."""

import dataclasses

import av
import jax
import numpy as np
import pytest
from PIL import Image

from schemas import Tier, UsageError
from tests.trainer import tiny_run as tiny
from trainer.data import Embeddings, Table
from trainer.data.example import past_frames
from trainer.simulate import (
    Rollout,
    SamplerSpec,
    Simulator,
    contact_sheet,
    load_start,
    rollout,
    write_contact_sheet,
    write_mp4,
)
from trainer.train import Checkpoints, abstract, train

ACTIONS = ["push the red block left", "push the red block up", "push the red block left"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")
    return tiny.table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(tiny.CONFIG, data=data, out=out, say=lambda _: None)
    return out


def _simulator(run, data, **changes):
    embeddings = Embeddings.of(Table(data))
    sampler = SamplerSpec(**{"steps": 3, **changes})
    return Simulator(
        run, lambda texts: [embeddings.lookup(t) for t in texts], embeddings.info, sampler
    )


@pytest.fixture(scope="module")
def simulator(run, data):
    return _simulator(run, data)


@pytest.fixture(scope="module")
def simulated(simulator, data):
    return rollout(simulator, load_start(data, simulator.tier), ACTIONS, seed=3)


def test_a_rollout_has_the_frames_of_every_action(simulated):
    assert len(simulated.frames) == 3
    for frames in simulated.frames:
        assert frames.shape == (4, 8, 16, 3) and frames.dtype == np.uint8
    assert simulated.video.shape == (1 + 3 * 4, 8, 16, 3)
    assert simulated.video.std() > 1
    assert (simulated.frames[0] != simulated.frames[2]).any()  # fresh noise at every step


def test_each_action_sees_the_end_of_what_came_before(simulator, simulated):
    seen = simulated.start
    for i, (action, wanted) in enumerate(zip(ACTIONS, simulated.frames, strict=True)):
        history, mask = past_frames(seen, simulator.history)
        assert mask.sum() == min(len(seen), 2)
        key = jax.random.fold_in(jax.random.key(3), i)
        found = simulator.step(history[None], mask[None], [action], key)[0]
        np.testing.assert_array_equal(found, wanted)
        seen = np.concatenate([seen, wanted])


def test_equal_seeds_give_equal_videos_and_others_do_not(simulator, simulated):
    again = rollout(simulator, simulated.start, ACTIONS[:1], seed=3)
    np.testing.assert_array_equal(again.frames[0], simulated.frames[0])
    other = rollout(simulator, simulated.start, ACTIONS[:1], seed=4)
    assert (other.frames[0] != simulated.frames[0]).any()


def test_history_and_action_reach_the_frames(simulator, simulated):
    key = jax.random.key(0)
    history, mask = past_frames(simulated.start, simulator.history)

    def step(history, action):
        return simulator.step(history[None], mask[None], [action], key)

    first = step(history, ACTIONS[0])
    assert (first != step(history, ACTIONS[1])).any()
    assert (first != step(255 - history, ACTIONS[0])).any()


def test_the_average_simulates_not_the_parameters(simulator, run):
    with Checkpoints(run, keep=None) as checkpoints:
        state, _ = checkpoints.restore(6, abstract(simulator.info.config))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), simulator._stages[0].params, state.ema)
    assert all(jax.tree.leaves(same))
    assert not all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), state.ema, state.params))
    )


def test_the_video_and_the_sheet_are_files_that_decode(simulated, tmp_path):
    write_mp4(tmp_path / "new" / "rollout.mp4", simulated.video, 5.0)
    write_contact_sheet(tmp_path / "new" / "rollout.png", simulated.rows)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["rollout.mp4", "rollout.png"]
    with av.open(str(tmp_path / "new" / "rollout.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.average_rate == 5
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
    assert len(frames) == 1 + 3 * 4
    assert frames[0].shape[0] >= 240 and frames[0].shape[0] % 8 == 0
    small = frames[0][15::30, 15::30].astype(int)  # the middles of the enlarged pixels
    assert np.abs(small - simulated.start[0]).mean() < 12
    with Image.open(tmp_path / "new" / "rollout.png") as sheet:
        assert sheet.format == "PNG" and sheet.width >= 4 * 120


def test_equal_rollouts_give_equal_files(simulated, tmp_path):
    for name in ("a", "b"):
        write_mp4(tmp_path / f"{name}.mp4", simulated.video, 5.0)
        write_contact_sheet(tmp_path / f"{name}.png", simulated.rows)
    for kind in ("mp4", "png"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_frames_of_odd_size_become_a_video_too(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 301, 333, 3), np.uint8)
    write_mp4(tmp_path / "odd.mp4", frames, 29.97)
    with av.open(str(tmp_path / "odd.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


def test_the_sheet_has_a_captioned_row_per_action():
    frames = np.zeros((4, 8, 16, 3), np.uint8)
    texts = ("one", "a very long action " * 20)
    one = Rollout(start=frames[:1], actions=texts[:1], frames=(frames,))
    two = Rollout(start=frames[:1], actions=texts, frames=(frames, frames))
    small, large = contact_sheet(one.rows), contact_sheet(two.rows)
    assert large.height > small.height and large.width == small.width
    new_row = np.asarray(large)[small.height - 6 : small.height + 20]
    assert (new_row < 128).any()  # the ink of its caption


def test_the_start_is_a_picture_or_a_tables_validation_frame(data, tmp_path):
    tier, table = Tier.parse("8x16"), Table(data, "8x16")
    first = int(table.rows("val")[0])
    np.testing.assert_array_equal(load_start(data, tier), table.chunk(first).pixels()[:1])
    picture = np.zeros((80, 160, 3), np.uint8)
    picture[:, 80:] = (200, 100, 0)
    Image.fromarray(picture).save(tmp_path / "start.png")
    found = load_start(str(tmp_path / "start.png"), tier)
    assert found.shape == (1, 8, 16, 3)
    np.testing.assert_array_equal(found[0, :, 8:], np.full((8, 8, 3), (200, 100, 0)))


def test_what_is_no_picture_is_refused(tmp_path):
    tier = Tier.parse("8x16")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(UsageError, match=r"text\.jpg: is no picture"):
        load_start(str(tmp_path / "text.jpg"), tier)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"cut\.jpg: cannot be read"):
        load_start(str(tmp_path / "cut.jpg"), tier)
    Image.new("1", (30000, 30000)).save(tmp_path / "bomb.png")
    with pytest.raises(UsageError, match=r"bomb\.png"):
        load_start(str(tmp_path / "bomb.png"), tier)
    with pytest.raises(UsageError, match=r"missing\.png: cannot be read"):
        load_start(str(tmp_path / "missing.png"), tier)
    with pytest.raises(UsageError, match=r"no manifest.json"):
        load_start(str(tmp_path), tier)


def test_a_run_without_a_checkpoint_or_with_another_encoder_is_refused(run, data, tmp_path):
    with pytest.raises(UsageError, match=r"has no checkpoints.*unisim train"):
        _simulator(tmp_path, data)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UsageError, match=r"no complete checkpoint.*unisim train"):
        _simulator(tmp_path, data)
    info = dataclasses.replace(Table(data).encoder(), name="other", digest="f" * 32)
    with pytest.raises(UsageError, match=r"encoder 'fake'.*this is 'other'.*--t5"):
        Simulator(run, lambda texts: [], info)


def test_empty_actions_and_wrong_starts_are_refused(simulator, simulated):
    with pytest.raises(UsageError, match="--action is empty"):
        rollout(simulator, simulated.start, [" "])
    with pytest.raises(UsageError, match="no --action"):
        rollout(simulator, simulated.start, [])
    with pytest.raises(UsageError, match="wanted \\(n, 8, 16, 3\\)"):
        rollout(simulator, simulated.start[:, 1:], ACTIONS)
