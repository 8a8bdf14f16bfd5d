"""LAION: a tar that is read in parts, perhaps by several workers, perhaps from afar, and mended."""

import dataclasses
import os
import tempfile
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import plan, prepare, replan
from pipelines.episode import Unit
from pipelines.plan import Plan, absolute_uri
from pipelines.sources import laion
from pipelines.write import write_shard
from schemas import DataError, Tier
from tests.pipelines import flaky

TARGET = 3_000


def keys(unit: Unit) -> list[str]:
    return [x.key if isinstance(x, DataError) else x.id for x in laion.episodes(unit)]


def planned(path: Path) -> Plan:
    tiers = [Tier(24, 40, "raw")]
    return plan.make([("laion", str(path))], tiers=tiers, fps={}, shard_mb=0.01)


def units(made: Plan) -> list[list[Unit]]:
    """By shard, with their absolute URIs."""
    (dataset,) = made.datasets
    return [
        [
            dataclasses.replace(unit, uri=absolute_uri(unit.uri, dataset.root))
            for unit in dataset.shard(shard).units
        ]
        for shard in range(dataset.planned.num_shards)
    ]


@pytest.fixture
def corpus(tmp_path) -> Path:
    return laion.fake(tmp_path, 0, traps=False)


def change_rows(path: Path, change) -> None:
    rows = change(pq.read_table(path / "00000.parquet").to_pylist())
    pq.write_table(pa.Table.from_pylist(rows), path / "00000.parquet")


def test_a_mended_parquet_leaves_every_key_in_its_part(corpus):
    parts = list(laion.units(str(corpus), TARGET))
    assert len(parts) > 4
    whole = [keys(unit) for unit in parts]
    assert list(chain(*whole)) == [f"00000{i}" for i in range(8)]

    def spoil(rows):
        return [{**rows[0], "key": "000004x", "status": "failed_to_download"}, *rows[:3], *rows[4:]]

    change_rows(corpus, spoil)
    assert [[k for k in keys(unit) if k != "000004x"] for unit in parts] == whole


@pytest.mark.parametrize("cut", [False, True])
def test_a_mended_tar_is_read_anew_by_all_its_shards(corpus, tmp_path, cut):
    """Whether it was damaged, or shorter so that it had fewer parts."""
    wanted = [keys(unit) for shard in units(planned(corpus)) for unit in shard]
    tar = corpus / "00000.tar"
    whole = tar.read_bytes()
    middle = len(whole) // 2
    spoilt = whole[:middle] + b"x" * 64 + whole[middle + 64 :]
    spoilt = whole[: -len(whole) // 3] if cut else spoilt
    tar.write_bytes(spoilt)
    saved = planned(corpus)
    out = str(tmp_path / "table")
    plan.save(saved, out)
    receipts = [write_shard(task) for task in prepare.tasks(saved, out)]
    lost = {r.shard for r in receipts if any(x["episodes"] for x in r.dead_letters)}
    assert lost
    tar.write_bytes(whole)
    again, shards = replan.retried(saved, {"laion": lost})
    assert shards["laion"] == list(range(len(receipts)))
    found = [keys(unit) for shard in units(again) for unit in shard]
    assert found == wanted
    stamps = {unit.stamp for shard in units(again) for unit in shard}
    assert stamps == {units(planned(corpus))[0][0].stamp}


def test_what_was_kept_of_a_tar_is_of_no_use_once_it_has_changed(corpus, tmp_path):
    made, out = planned(corpus), str(tmp_path / "table")
    plan.save(made, out)
    tasks = list(prepare.tasks(made, out))
    assert len(tasks) > 2 and not write_shard(tasks[0]).dead_letters
    tar = corpus / "00000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"square", b"circle"))
    for task in tasks[1:-1]:
        letters = write_shard(task).dead_letters
        assert len(letters) == len(task.shard.units)
        assert all("has changed since planned" in letter["reason"] for letter in letters)
    os.utime(tar, ns=(0, int(made.datasets[0].shard(0).units[0].stamp.partition("@")[2])))
    assert not write_shard(tasks[-1]).dead_letters, "as far as a stamp can tell it is the old one"


def test_a_remote_tar_is_copied_once_for_parts_in_a_row(corpus, tmp_path, monkeypatch):
    opened: list[str] = []
    opens = flaky.FlakyFileSystem.open
    monkeypatch.setattr(flaky.FAULTS, "maybe", lambda path: None)
    monkeypatch.setattr(
        flaky.FlakyFileSystem,
        "open",
        lambda self, path, *args, **kwargs: (
            opened.append(path.rsplit("/", 1)[1]) or opens(self, path, *args, **kwargs)
        ),
    )
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    for suffix in ("tar", "parquet"):
        data = (corpus / f"00000.{suffix}").read_bytes()
        (corpus / f"00001.{suffix}").write_bytes(data)
    found = list(laion.units(f"{flaky.PREFIX}{corpus}", TARGET))
    here, there = (
        [unit for unit in found if unit.id.startswith(stem)] for stem in ("00000", "00001")
    )
    local = [keys(unit) for unit in laion.units(str(corpus), TARGET)]
    assert [keys(unit) for unit in here] == local[: len(here)]
    assert opened == ["00000.parquet", "00000.tar"]
    assert keys(here[2]) == local[2] and keys(here[3]) == local[3]
    assert keys(there[3]) == local[len(here) + 3] and keys(here[3]) == local[3]
    tars = [name for name in opened[2:] if name.endswith(".tar")]
    assert tars == ["00000.tar", "00001.tar", "00000.tar"]
    assert not list((tmp_path / "copies").iterdir()), "what is kept has no name"
    os.utime(corpus / "00000.tar")
    assert keys(here[4]) == local[4] and len(opened) == 10


def test_a_generator_that_is_left_alone_keeps_nothing(corpus):
    parts = list(laion.units(str(corpus), TARGET))
    items = laion.episodes(parts[0])
    first = next(items)
    items.close()  # type: ignore[attr-defined]
    assert keys(parts[0])[0] == first.id  # type: ignore[union-attr]
    assert list(chain(*map(keys, parts))) == [f"00000{i}" for i in range(8)]
