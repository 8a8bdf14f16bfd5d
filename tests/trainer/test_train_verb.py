"""`unisim train`: flags become the config, help teaches, and what cannot be done is refused."""

import json

import pytest

from infra.verbs import train as verb
from schemas import UsageError
from tests.trainer import tiny_run as tiny

_FLAGS = """
    --tier 8x16 --frames 4 --tokens 8 --batch-size 4 --steps 2 --log-every 1
    --model.channels 4 --model.multipliers 1 --model.attention 0 --model.heads 1
    --model.cond-width 8 --model.cond-mlp-layers 1 --model.control-width 8
    --model.history-frames 2 --model.norm-groups 1 --model.patch 4 --weights moving 1 still 0.5
"""
SMALL = _FLAGS.split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")
    return tiny.table(tmp_path_factory.mktemp("table"))


def test_every_field_can_be_given_and_the_run_says_how_it_goes(data, tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["--config", "debug", "--data", data, "--out", str(out), *SMALL]
    assert verb.main(argv) == 0
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["model"]["multipliers"] == [1] and config["model"]["text_width"] == 8
    assert config["weights"] == {"moving": 1.0, "still": 0.5} and config["learning_rate"] == 2e-3
    said = capsys.readouterr().err
    assert "moving 67%, still 33%" in said and "not a language model" in said
    assert "step 1/2  loss" in said and "steps/s" in said
    last = said.splitlines()[-1]
    assert last.startswith("done: step 2, loss ") and "->" in last


def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert verb.main(["--data", data, "--out", str(out), *SMALL, "--dry-run"]) == 0
    said = capsys.readouterr()
    config = json.loads(said.out)
    assert config["model"]["text_width"] == 8 and config["tier"] == "8x16"
    assert "moving 67%, still 33%" in said.err and "epochs in 2 steps: moving " in said.err
    assert not out.exists()


def test_help_names_every_field_with_its_meaning(capsys):
    with pytest.raises(SystemExit) as stopped:
        verb.main(["--config", "base", "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for text in ("--data", "--ema-decay", "--model.channels", "--weights", "unisim train", "1024"):
        assert text in said


def test_mistakes_are_refused(data, tmp_path):
    out = ["--out", str(tmp_path / "run")]
    with pytest.raises(UsageError, match="no config 'debgu', did you mean 'debug'"):
        verb.main(["--config=debgu", "--data", data, *out])
    with pytest.raises(UsageError, match=r"no manifest\.json.*unisim prepare"):
        verb.main(["--data", str(tmp_path), *out])
    with pytest.raises(UsageError, match="--batch-size is -1"):
        verb.main(["--data", data, "--batch-size", "-1", *out])
    with pytest.raises(UsageError, match="unknown flag --btach-size; did you mean 'batch-size'"):
        verb.main(["--data", data, "--btach-size", "4", *out])
    with pytest.raises(UsageError, match=r"embeddings are 8 wide, but --model.text-width is 4096"):
        verb.main(["--config", "base", "--data", data, "--tier", "8x16", *out])
    assert not (tmp_path / "run").exists()
