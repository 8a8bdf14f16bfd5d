"""A resumed run equals a straight one; a run that differs, or has no data, is refused."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest

from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer.configs.config import PAPER_WEIGHTS
from trainer.data import Embeddings, Table, consumed
from trainer.train import Checkpoints, abstract, set_up, train
from trainer.train.guard import LossGuard
from trainer.train.setup import fitted, trained_on


def _quiet(_: str) -> None:
    pass


def _train(config, data, out):
    return train(config, data=data, out=out, say=_quiet)


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """Six steps in one go."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    _train(tiny.CONFIG, data, out)
    return out


@pytest.fixture(scope="module")
def half(data, tmp_path_factory):
    """Its first three steps."""
    out = tmp_path_factory.mktemp("runs") / "half"
    _train(tiny.config(steps=3), data, out)
    return out


def _state(run):
    """The last checkpoint's arrays by name, and the data iterator's state."""
    with Checkpoints(run, keep=None) as checkpoints:
        step = checkpoints.latest()
        assert step is not None
        state, place = checkpoints.restore(step, abstract(checkpoints.info(step).config))
    arrays = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    return arrays, place


def test_a_resumed_run_equals_the_straight_one_bit_for_bit(data, straight, half, tmp_path):
    resumed = shutil.copytree(half, tmp_path / "resumed")
    _train(tiny.CONFIG, data, resumed)
    (one, place), (other, other_place) = _state(straight), _state(resumed)
    assert one.keys() == other.keys() and len(one) > 50
    for name, value in one.items():
        assert value.tobytes() == other[name].tobytes(), name
    assert place == other_place
    assert (straight / "metrics.jsonl").read_bytes() == (resumed / "metrics.jsonl").read_bytes()
    assert (straight / "config.json").read_bytes() == (resumed / "config.json").read_bytes()


def test_training_moves_parameters_and_their_average(straight, half):
    (later, _), (earlier, _) = _state(straight), _state(half)
    for part in ("params", "ema"):
        names = [name for name in later if name.startswith(f".{part}")]
        moved = [name for name in names if (later[name] != earlier[name]).any()]
        assert len(moved) > len(names) * 0.8
    assert later[".step"] == 6 and earlier[".step"] == 3


def test_an_interrupted_save_is_never_picked_up(data, straight, half, tmp_path):
    run = shutil.copytree(half, tmp_path / "run")
    with Checkpoints(run, keep=2) as checkpoints:
        info = checkpoints.info(3)
        state, _ = checkpoints.restore(3, abstract(info.config))
        state = dataclasses.replace(state, params=jax.tree.map(lambda p: p * 0, state.params))
        with pytest.raises(TypeError):  # fails when the arrays are on their way to the disk
            checkpoints.save(6, state, {"next_index": object()}, info)
    assert any(p.name.startswith("6") for p in (run / "checkpoints").iterdir())  # its remains
    with Checkpoints(run, keep=None) as checkpoints:
        assert checkpoints.latest() == 3
    _train(tiny.CONFIG, data, run)
    assert {n: v.tobytes() for n, v in _state(run)[0].items()} == {
        n: v.tobytes() for n, v in _state(straight)[0].items()
    }


def test_a_run_killed_between_saves_ends_like_the_straight_one(data, straight, half, tmp_path):
    run = shutil.copytree(half, tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as f:  # steps after the save, and half a line
        f.write('{"step": 4, "loss": 9.0, "grad_norm": 9.0}\n{"step": 5, "lo')
    _train(tiny.CONFIG, data, run)
    assert (straight / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()


def test_old_checkpoints_go_and_a_finished_run_is_left_alone(data, straight, tmp_path):
    run = shutil.copytree(straight, tmp_path / "run")
    _train(tiny.config(steps=8, keep=1), data, run)
    assert [p.name for p in (run / "checkpoints").iterdir() if p.is_dir()] == ["8"]
    before = {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}
    result = _train(tiny.config(steps=8, keep=1), data, run)
    assert result.step == 8
    assert before == {p: p.stat().st_mtime_ns for p in (run / "checkpoints").rglob("*")}


def test_another_config_or_table_is_refused_with_the_difference(data, half, tmp_path):
    with pytest.raises(UsageError, match=r"batch_size 4 -> 2; .*learning_rate 0.01 -> 0.5"):
        _train(tiny.config(batch_size=2, learning_rate=0.5), data, half)
    other = dataclasses.replace(tiny.CONFIG.model, channels=8)
    with pytest.raises(UsageError, match=r"model.channels 4 -> 8"):
        _train(tiny.config(model=other), data, half)
    with pytest.raises(UsageError, match=r"table \w{12} -> \w{12}"):
        _train(tiny.CONFIG, tiny.table(tmp_path / "other", seed=1), half)


def test_a_folder_without_a_manifest_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "table").mkdir()
    with pytest.raises(UsageError, match=r"no manifest.json.*unisim prepare"):
        _train(tiny.CONFIG, str(tmp_path / "table"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_trained_is_refused_before_anything_is_written(data, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="fewer than a batch of 1000"):
        _train(tiny.config(batch_size=1000), data, out)
    with pytest.raises(UsageError, match="no dataset 'movng', did you mean 'moving'"):
        _train(tiny.config(weights={"movng": 1.0}), data, out)
    with pytest.raises(UsageError, match="the table has no dataset 'rt1', known: moving, still"):
        _train(tiny.config(weights={"moving": 1.0, "rt1": 0.5}), data, out)
    papers = set_up(tiny.config(weights=PAPER_WEIGHTS), data)
    assert "weights of datasets that the table lacks: habitat, rt1" in "\n".join(papers.describe())
    with pytest.raises(UsageError, match="has no tier '24x40'"):
        _train(tiny.config(tier="24x40"), data, out)
    odd = dataclasses.replace(tiny.CONFIG.model, patch=16)
    with pytest.raises(UsageError, match="cannot be halved"):
        _train(tiny.config(model=odd), data, out)
    assert not out.exists()


def test_metrics_hold_every_step_and_the_samples_are_those_named(data, straight):
    lines = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite([line["loss"], line["grad_norm"]]).all() for line in lines)
    _, place = _state(straight)
    assert place == {"next_index": 6}
    _, table, order = trained_on(straight)
    rows = {sample.row for sample in order.batch(place["next_index"])}
    assert rows <= set(table.rows("train").tolist())


def test_a_checkpoint_holds_what_made_it(data, straight):
    with Checkpoints(straight, keep=None) as checkpoints:
        info = checkpoints.info(6)
    table = Table(data)
    assert info.table == table.digest and info.encoder == table.encoder()
    assert info.config == fitted(tiny.CONFIG, Embeddings.of(table))
    assert info.fps == 5.0


def test_a_loss_that_leaps_or_is_none_ends_the_run(tmp_path):
    guard = LossGuard(tmp_path, 10.0)
    for step in range(1, 101):
        guard.check(step, 0.5 + step / 200 + 7.0 * (step == 3))  # that early nothing is known
    guard.check(101, 74.0)
    with pytest.raises(
        UsageError, match=r"leaps to 800 at step 102, 10.8 times.*--step 101`.*spike"
    ):
        guard.check(102, 800.0)
    with pytest.raises(UsageError, match=r"the loss is nan at step 103.*unisim why --run"):
        guard.check(103, float("nan"))
    calm = LossGuard(tmp_path, 0.0)
    for step in range(1, 300):
        calm.check(step, 10.0**step if step < 200 else 1.0)


def test_a_run_that_diverges_saves_nothing_of_it(data, half, tmp_path):
    """Its parameters are infinite one day."""
    run = shutil.copytree(half, tmp_path / "run")
    with Checkpoints(run, keep=2) as checkpoints:
        info = checkpoints.info(3)
        state, _ = checkpoints.restore(3, abstract(info.config))
        lost = jax.tree.map(lambda p: p + np.float32(np.inf), state.params)
        checkpoints.save(4, dataclasses.replace(state, params=lost), {"next_index": 4}, info)
    with pytest.raises(UsageError, match=r"the loss is nan at step 5 \(its samples: .*--step 4`"):
        _train(tiny.CONFIG, data, run)
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.is_dir()) == [3, 4]


def test_other_weights_go_on_where_the_epochs_were(data, tmp_path):
    """What `why` says of each step is what an order made anew from the last checkpoint says."""
    said: list[str] = []
    for steps, weights in ((3, {"moving": 1.0}), (5, {"moving": 1.0, "still": 1.0}), (6, {})):
        config = tiny.config(steps=steps, weights=weights)
        train(config, data=data, out=tmp_path, say=said.append)
    assert any(line.startswith("the mixture until now: moving 95%, still 5%") for line in said)
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        eras = checkpoints.info(6).eras
    # equal weights and no weights are the same mixture
    assert [era.step for era in eras] == [0, 3]
    _, table, order = trained_on(tmp_path)
    rows = [s.row for step in range(6) for s in order.batch(step)]
    still = set(table.rows("train", "still").tolist())
    assert sum(row in still for row in rows[12:]) == 6
    for mine in ([r for r in rows if r in still], [r for r in rows if r not in still]):
        size = len(still) if mine[0] in still else table.count("train", "moving")
        epochs = [mine[i : i + size] for i in range(0, len(mine), size)]
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)


def test_changes_are_accepted_when_told_to(data, half, tmp_path):
    run = shutil.copytree(half, tmp_path / "run")
    other = tiny.table(tmp_path / "other", seed=1)
    config, said = tiny.config(where="num_frames > 1", weights={"moving": 1.0}), []
    what = r"where  -> num_frames > 1; text encoder fake -> fake; table \w+ -> \w+"
    with pytest.raises(UsageError, match=rf"{what}.*--accept-changes"):
        _train(config, other, run)
    train(config, data=other, out=run, accept_changes=True, say=said.append)
    assert any(re.match(rf"going on with changes: {what}$", line) for line in said)
    with Checkpoints(run, keep=None) as checkpoints:
        [first, second] = checkpoints.info(6).eras
    assert (first.step, second.step, second.shuffle, second.drawn) == (0, 3, 1, {})
    _, table, order = trained_on(run)
    with pytest.raises(UsageError, match="the samples changed at step 3"):
        consumed(table, order, 2)
    assert all(sample.chunk.num_frames > 1 for sample in consumed(table, order, 3))
    wide = dataclasses.replace(tiny.CONFIG.model, channels=8)
    with pytest.raises(UsageError, match=r"channels 4 -> 8.*parameters have other shapes"):
        train(tiny.config(model=wide), data=data, out=half, accept_changes=True, say=_quiet)
