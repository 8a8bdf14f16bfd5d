"""Validation sees split val alone, always alike, and changes nothing of what is trained."""

import json

import jax
import numpy as np
import pytest

from tests.trainer import tiny_run as tiny
from trainer.train import Checkpoints, abstract, init, set_up, train
from trainer.train.goodput import read_goodput
from trainer.train.validation import VALIDATION, Validation

CONFIG = tiny.config(steps=4, save_every=4, validate_every=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")
    return tiny.table(tmp_path_factory.mktemp("table"))


def _params(run):
    with Checkpoints(run, keep=None) as checkpoints:
        state, _ = checkpoints.restore(4, abstract(checkpoints.info(4).config))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def test_a_run_that_validates_ends_with_the_same_bytes(data, tmp_path):
    said = []
    train(CONFIG, data=data, out=tmp_path / "with", say=said.append)
    silent = tiny.config(steps=4, save_every=4)
    train(silent, data=data, out=tmp_path / "without", say=lambda _: None)
    assert _params(tmp_path / "with") == _params(tmp_path / "without")
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("with", "without")]
    assert metrics[0] == metrics[1] and not (tmp_path / "without" / VALIDATION).exists()
    lines = [json.loads(x) for x in (tmp_path / "with" / VALIDATION).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert line["by_source"].keys() == {"moving", "still"}
        assert line["loss"] == pytest.approx(np.mean(list(line["by_source"].values())))
        assert line["loss"] == pytest.approx(np.mean(list(line["by_log_snr"].values())))
    assert any(text.startswith("validation at step 2: loss ") for text in said)
    # going on cuts what is after the checkpoint, and validates again alike
    with (tmp_path / "with" / VALIDATION).open("a") as f:
        f.write('{"step": 5, "loss": 0.0}\n{"st')
    train(tiny.config(steps=6, validate_every=2), data=data, out=tmp_path / "with", say=said.append)
    again = [json.loads(x) for x in (tmp_path / "with" / VALIDATION).read_text().splitlines()]
    assert again[:2] == lines and [line["step"] for line in again] == [2, 4, 6]
    spent = read_goodput(tmp_path / "with")
    assert spent is not None and spent.processes >= 1 and spent.seconds["validation"] > 0


def test_samples_are_those_of_val_and_their_noise_is_their_own(data):
    """Whatever batches they come in, the last of which is filled up."""
    found = []
    for size in (4, 5):
        setup = set_up(tiny.config(batch_size=size, validate_every=2), data)
        validation = Validation(setup)
        rows = [sample.row for part in validation.samples.values() for sample in part]
        assert sorted(rows) == setup.table.rows("val").tolist() and not validation.missing
        params = jax.tree.map(lambda p: p + 0.01, init(setup.config).params)
        found.append(validation.run(params))
    levels = [list(f["by_log_snr"].values()) for f in found]
    np.testing.assert_allclose(levels[0], levels[1], rtol=1e-4)
    assert len(set(np.round(levels[0], 6))) == 5
