"""`unisim why`: the samples of a step are those that the loop consumed."""

import json

import numpy as np
import pytest
from PIL import Image

from infra.verbs import why as verb
from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer.data import Table, consumed
from trainer.train import loop
from trainer.train.setup import trained_on

CONFIG = tiny.config(weights={"moving": 3.0, "still": 1.0}, steps=5)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")
    return tiny.table(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def ran(table, tmp_path_factory):
    """A run, and the rows of the batches that its step was called with."""
    out, seen = tmp_path_factory.mktemp("runs") / "run", []
    real = loop.train_step

    def recording(config, graph, placement):
        step = real(config, graph, placement)

        def record(state, batch, empty):
            loop.jax.debug.callback(
                lambda n, rows: seen.append((int(n), np.asarray(rows).tolist())),
                state.step,
                batch["row"],
            )
            return step(state, batch, empty)

        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", recording)
        loop.train(CONFIG, data=table, out=out, say=lambda line: None)
    loop.jax.effects_barrier()
    return out, dict(seen)


def test_why_equals_what_the_loop_consumed(ran, table):
    out, seen = ran
    assert sorted(seen) == list(range(CONFIG.steps))
    _, found, order = trained_on(out)
    for step, rows in seen.items():
        samples = consumed(found, order, step)
        assert [s.row for s in samples] == rows
        assert [s.chunk.key for s in samples] == [Table(table).key(row) for row in rows]


def test_the_verb_tells_passports_and_shows_frames(ran, tmp_path, capsys):
    out, seen = ran
    flags = ["--run", str(out), "--step", "2"]
    assert verb.main([*flags, "--json", "--show", str(tmp_path / "step.png")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["row"] for line in lines] == seen[2]
    assert all(line["license"] == "CC0-1.0" and line["source_uri"] for line in lines)
    with Image.open(tmp_path / "step.png") as sheet:
        assert sheet.height > CONFIG.batch_size * 40
    assert verb.main([*flags, "--position", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"position 1: {lines[1]['key']}, row {seen[2][1]}")
    assert lines[1]["source_uri"] in said and "position 2" not in said


def test_mistakes_are_refused(ran, tmp_path):
    out, _ = ran
    with pytest.raises(UsageError, match=r"--position is 4, but a batch has positions 0\.\.3"):
        verb.main(["--run", str(out), "--step", "0", "--position", "4"])
    with pytest.raises(UsageError, match="--step is -1"):
        verb.main(["--run", str(out), "--step", "-1"])
    with pytest.raises(UsageError, match=r"config.json: cannot be read.*unisim train"):
        verb.main(["--run", str(tmp_path), "--step", "0"])
    other = tiny.table(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match="is not the table that"):
        verb.main(["--run", str(out), "--step", "0", "--data", other])
