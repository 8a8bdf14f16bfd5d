"""What `unisim forget --uri` counts anew is what a table has that never had the raw file.

Between the two tables may differ, and nothing else does:

- where records stand: shards, their number, positions in them (a shard may be left empty);
- the plan with its digest, and so the digests of files that hold either: plan.json,
  plan.units.parquet, index parts, shards.parquet, dataset_info.json;
- dead letters of the raw file that was forgotten: they stay;
- how many texts were ever cut to the encoder's length;
- what making the shards took, as no raw data is read again;
- the manifest's note of what was forgotten.
"""

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines import sources
from pipelines.job import load_manifest
from schemas import Tier, encode
from tests.command import files_of, unisim
from tests.table import read_table

NAMES = ("bridge", "language_table", "rt1")
TIERS = ("24x40:raw", "48x80:jpeg")
FLAGS = [x for tier in TIERS for x in ("--tier", tier)]
FLAGS += ["--error-budget", "1", "--workers", 1]
PLACE = ("shard", "num_shards", "position")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("corpora")
    return {name: sources.get(name).fake(root / name, 0) for name in NAMES}


def prepare(corpora: dict[str, Path], out: Path, shard_mb: str) -> None:
    given = [x for name, path in corpora.items() for x in ("--source", f"{name}={path}")]
    unisim("prepare", *given, "--out", out, "--shard-mb", shard_mb, *FLAGS)


@pytest.fixture(scope="module")
def tables(tmp_path_factory, corpora) -> dict[str, Path]:
    """With several shards of each source, and with one."""
    root = tmp_path_factory.mktemp("tables")
    for shard_mb in ("0.005", "1"):
        prepare(corpora, root / shard_mb, shard_mb)
    return {path.name: path for path in root.iterdir()}


def rows_of(out: Path, name: str, *without: str) -> list[dict]:
    rows = pq.read_table(out / name).to_pylist()
    return [{k: v for k, v in row.items() if k not in without} for row in rows]


def counted(out: Path) -> list[dict]:
    """The rows of shards.parquet but for empty shards'."""
    return [row for row in rows_of(out, "shards.parquet", "shard", "stages") if row["episodes"]]


def described(out: Path) -> tuple[list[dict], dict]:
    """The manifest's datasets without the shards' number; and what else it says."""
    manifest = json.loads((out / "manifest.json").read_text())
    for dataset in manifest["datasets"]:
        del dataset["num_shards"]
        dataset["shard_rows"] = {k: sum(v) for k, v in dataset["shard_rows"].items()}
    for encoder in manifest["encoders"]:
        del encoder["truncated"]
    return manifest.pop("datasets"), {
        name: value for name, value in manifest.items() if name not in ("files", "plan")
    }


def lost(dataset: dict, letters: list[dict]) -> dict:
    """The dataset without what such dead letters are in its counts."""
    mine = [letter for letter in letters if letter["dataset"] == dataset["name"]]
    stages = Counter(dataset["losses"])
    stages.subtract(letter["stage"] for letter in mine)
    return dataset | {
        "losses": {stage: count for stage, count in stages.items() if count},
        "dead_letters": dataset["dead_letters"] - sum(x["episodes"] for x in mine),
        "declared_losses": dataset["declared_losses"] - sum(not x["episodes"] for x in mine),
    }


@pytest.mark.parametrize(
    "shard_mb, source, number, clips_go",
    # RT-1's only clips of the arm are in its first file
    [("0.005", "rt1", 0, True), ("1", "rt1", 1, False), ("1", "language_table", 0, False)],
)
def test_forgetting_a_raw_file_counts_as_if_it_had_never_been(
    tmp_path, corpora, tables, shard_mb, source, number, clips_go
):
    forgotten, fresh = tmp_path / "forgotten", tmp_path / "fresh"
    shutil.copytree(tables[shard_mb], forgotten)
    left = corpora | {source: Path(shutil.copytree(corpora[source], tmp_path / source))}
    raw = sorted(left[source].glob("*tfrecord*"))[number]
    raw.unlink()
    prepare(left, fresh, shard_mb)
    unisim("forget", "--data", forgotten, "--uri", raw.name, "--workers", 1)
    assert "0 violations" in unisim("audit", forgotten).stdout

    letters = rows_of(forgotten, "dead_letters.parquet", "shard", "unit")
    its = [letter for letter in letters if letter["source_uri"] == raw.name]
    rest = [letter for letter in letters if letter not in its]
    assert rest == rows_of(fresh, "dead_letters.parquet", "shard", "unit")

    datasets, others = described(forgotten)
    wanted, wanted_others = described(fresh)
    took = [dataset.pop("stages") for dataset in datasets]
    assert took == [d["stages"] for d in described(tables[shard_mb])[0]]
    fewer = [(a, b.pop("stages")) for a, b in zip(took, wanted, strict=True)]
    assert [a["write"]["bytes"] > b["write"]["bytes"] for a, b in fewer] == [
        name == source for name in NAMES
    ]
    assert [lost(dataset, its) for dataset in datasets] == wanted
    [note] = others.pop("forgotten")
    assert not wanted_others.pop("forgotten") and others == wanted_others
    before = load_manifest(str(tables[shard_mb])).datasets
    clipped = {d.name: d.clipped for d in before}
    assert clipped["rt1"] and (clipped["rt1"] != datasets[-1]["clipped"]) == clips_go
    assert note["records"] == {
        source: sum(d.chunks for d in before) - sum(d["chunks"] for d in datasets)
    }

    assert rows_of(forgotten, "index.parquet", *PLACE) == rows_of(fresh, "index.parquet", *PLACE)
    assert counted(forgotten) == counted(fresh)
    for tier in map(Tier.parse, TIERS):
        for one, other in zip(read_table(forgotten, tier), read_table(fresh, tier), strict=True):
            assert encode(one) == encode(other)
    texts = [
        {name: data for name, data in files_of(out).items() if name.startswith("text/")}
        for out in (forgotten, fresh)
    ]
    assert texts[0] == texts[1]
