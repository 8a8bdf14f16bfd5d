"""A table that is changed under a running job ends the run before it is saved."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from schemas import Manifest, UsageError
from schemas.table import MANIFEST
from tests.trainer import tiny_run as tiny
from trainer.data import Embeddings, ExampleMaker, Sample, Table
from trainer.train import Checkpoints, train
from trainer.train.setup import example_spec

CONFIG = tiny.config(save_every=2, log_every=1)


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")


def _taken_away(table: Path) -> None:
    (table / MANIFEST).unlink()


def _replaced(table: Path) -> None:
    other = Path(tiny.table(table.parent / "other", seed=1))
    (table / MANIFEST).unlink()
    shutil.copytree(other, table, dirs_exist_ok=True)


def _embedded_again(table: Path) -> None:
    path = table / MANIFEST
    manifest = Manifest.from_json(path.read_text())
    more = dataclasses.replace(manifest.encoder(), name="second", digest="0" * 32)
    path.write_text(dataclasses.replace(manifest, encoders=(manifest.encoder(), more)).to_json())


def _run(tmp_path, change) -> Path:
    data, done = Path(tiny.table(tmp_path / "table")), []

    def say(line: str) -> None:
        if line.startswith("step 3/6") and not done:
            done.append(change(data))

    train(CONFIG, data=str(data), out=tmp_path / "run", say=say)
    assert done
    return tmp_path / "run"


@pytest.mark.parametrize("change", [_taken_away, _replaced])
def test_a_run_ends_when_its_table_is_another(change, tmp_path):
    with pytest.raises(UsageError, match=r"table: was changed since it was opened; begin anew"):
        _run(tmp_path, change)
    with Checkpoints(tmp_path / "run", keep=None) as checkpoints:
        assert checkpoints.latest() == 2


def test_a_run_goes_on_when_texts_are_embedded_by_another_encoder(tmp_path):
    with Checkpoints(_run(tmp_path, _embedded_again), keep=None) as checkpoints:
        assert checkpoints.latest() == 6


def test_a_record_that_is_gone_is_put_down_to_the_change(tmp_path):
    table = Table(tiny.table(tmp_path))
    maker = ExampleMaker(table, Embeddings.of(table), example_spec(tiny.CONFIG))
    samples = [Sample(row, 0) for row in table.rows("train")]
    shutil.rmtree(tmp_path / "frames-8x16")
    with pytest.raises(UsageError, match="run `unisim audit` on the table"):
        maker.batch(samples)
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(UsageError, match="was changed since it was opened"):
        maker.batch(samples)
