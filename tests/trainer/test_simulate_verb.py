"""`unisim simulate` finds what is wrong before it reads a text encoder."""

import pytest

from infra.verbs import simulate as verb
from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")
    return tiny.table(tmp_path_factory.mktemp("table"))


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        verb.main(["--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    for text in ("--checkpoint", "--start", "--action", "--eta", "--t5", "unisim simulate"):
        assert text in said


def test_a_missing_checkpoint_or_action_is_refused(data, tmp_path):
    start = ["--start", data, "--out", str(tmp_path / "out")]
    with pytest.raises(UsageError, match=r"has no checkpoints.*unisim train"):
        verb.main(["--checkpoint", str(tmp_path), "--action", "go", *start])
    with pytest.raises(UsageError, match="no --action"):
        verb.main(["--checkpoint", str(tmp_path), *start])


def test_another_text_encoder_is_refused(data, tmp_path):
    run = tmp_path / "run"
    train(tiny.config(steps=1), data=data, out=run, say=lambda _: None)
    argv = ["--checkpoint", str(run), "--start", data, "--action", "go", "--out", str(tmp_path)]
    with pytest.raises(UsageError, match=r"encoder 'fake'.*--t5"):
        verb.main(argv)
