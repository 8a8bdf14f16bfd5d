"""A run whose disk is full says so in one line, and goes on from its last checkpoint."""

import shutil
import subprocess

import pytest

from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer.train import Checkpoints, train
from trainer.train.metrics import Paced

CONFIG = tiny.config(save_every=2)


@pytest.fixture
def disk(tmp_path):
    """One with room for one checkpoint, not two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    # lazily, as what failed to write may still hold a file
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(disk, tmp_path):
    tiny.cache_compilations(tmp_path.parent / "compiled")
    data, run, filler = tiny.table(tmp_path / "table"), disk / "run", disk / "filler"
    for size, last in ((6 << 20, None), (5_200_000, 2)):
        with filler.open("wb", buffering=0) as f:
            f.write(bytes(size))
        with pytest.raises(UsageError, match=r"run: cannot be written \(No space left on device\)"):
            train(CONFIG, data=data, out=run, say=lambda _: None)
        filler.unlink()
        with Checkpoints(run, keep=1) as checkpoints:
            assert checkpoints.latest() == last
    train(CONFIG, data=data, out=run, say=lambda _: None)
    train(CONFIG, data=data, out=tmp_path / "straight", say=lambda _: None)
    names = ("metrics.jsonl", "config.json")
    for name in names:
        assert (run / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_what_takes_long_is_told_every_few_seconds(monkeypatch):
    said = []
    paced = Paced("reading the index", 400, "files", said.append)
    paced(100)
    assert not said  # it may soon be done
    monkeypatch.setattr("trainer.train.metrics._PACE", 0.0)
    paced(100)
    paced(100)
    paced(100)
    assert [line.split("  ")[0] for line in said] == [f"reading the index: {n}%" for n in (50, 75)]
    assert all(line.endswith(" left") and "files/s" in line for line in said)
