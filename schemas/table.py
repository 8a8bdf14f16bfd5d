"""Layout of a prepared table on disk: names of files, the index's columns, the manifest.

```
OUT/
  plan.json                     what will be done
  plan.units.parquet            and with which raw data, unit by unit
  manifest.json                 written last: its presence is the commit
  timings.json                  seconds that the workers took; no part of the table, may be deleted
  index.parquet/                one part per shard, a row per chunk
  shards.parquet                what each shard counted, so that a change recounts only its own
  dead_letters.parquet          what could not be used, and why
  frames-24x40/bridge/1.0.0/    bridge-train.array_record-00000-of-00012 … and the two
                                JSON files that tensorflow-datasets wants
  frames-192x320/bridge/1.0.0/  the same rows in the same order at another resolution
  text/tiny-random/             keys-39.npy, embeddings-39.array_record-00000-of-00001
  _work/                        receipts of finished shards while a job runs; gone after the commit
  _work/next/                   of a table that is changed: what will be moved to its place
```

A dataset's shard k holds one file per split; a split without rows in that shard has an empty file.

The text folders grow: `unisim embed` adds rows to an encoder's, or makes a second one's. Files have
their number of rows in their names, so that a file with more rows is another file, and those that a
manifest lists stay as they are until the next manifest is in its place. Only `unisim forget` takes
rows away.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from schemas.embedding import Compute, EmbeddingDtype
from schemas.errors import UsageError, did_you_mean
from schemas.record import SCHEMA_VERSION, Tier, features

PLAN = "plan.json"
PLAN_UNITS = "plan.units.parquet"
MANIFEST = "manifest.json"
TIMINGS = "timings.json"
INDEX = "index.parquet"
SHARDS = "shards.parquet"
DEAD_LETTERS = "dead_letters.parquet"
WORK = "_work"
FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
WRITER_OPTIONS = "group_size:1,uncompressed"
SPLITS = ("train", "val", "test")


def frames_dir(tier: Tier, dataset: str, version: str) -> str:
    """The folder, relative to the table, of a dataset's frames at a tier."""
    return f"frames-{tier.name}/{dataset}/{version}"


def frames_file(
    tier: Tier, dataset: str, version: str, split: str, shard: int, num_shards: int
) -> str:
    """One frames file, relative to the table."""
    name = f"{dataset}-{split}.array_record-{shard:05d}-of-{num_shards:05d}"
    return f"{frames_dir(tier, dataset, version)}/{name}"


def index_file(dataset: str, shard: int, num_shards: int) -> str:
    """A shard's part of the index, relative to the table."""
    return f"{INDEX}/{dataset}-{shard:05d}-of-{num_shards:05d}.parquet"


def text_dir(encoder: str) -> str:
    """The folder, relative to the table, of an encoder's embeddings.

    What is in it says the manifest (`Manifest.encoder`): one `text_keys` file and a `text_file` for
    each shard that has rows. The records of those, shard after shard, are the embeddings in the
    order of the keys, each as `schemas.embedding.encode_embedding` writes it.
    """
    return f"text/{encoder}"


def text_keys(encoder: str, rows: int) -> str:
    """The file, relative to the table, of an encoder's keys: uint8 `[rows, 16]`, sorted."""
    return f"{text_dir(encoder)}/keys-{rows}.npy"


def text_file(encoder: str, shard: int, num_shards: int, rows: int) -> str:
    """One embeddings file, relative to the table; a shard without rows has none.

    Args:
        rows: of this shard.
    """
    name = f"embeddings-{rows}.array_record-{shard:05d}-of-{num_shards:05d}"
    return f"{text_dir(encoder)}/{name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What made the embeddings, and how they are stored.

    Attributes:
        name: folder name under text/: "t5-v1_1-xxl", "t5-v1_1-xxl-int8", or "tiny-random".
        width: of an embedding, the encoder's d_model.
        max_tokens: longer texts were cut to this many tokens.
        digest: hex BLAKE2b of weights, configuration, vocabulary, code version and `compute`.
        description: a sentence for people; says so if it is not a language model.
        dtype: of the stored rows, see `schemas.embedding`.
        compute: what the encoder computed in, "float32" or "bfloat16".
        shard_rows: rows of each shard, in order.
        truncated: how many of the texts that were ever embedded here were cut.
    """

    name: str
    width: int
    max_tokens: int
    digest: str
    description: str
    dtype: EmbeddingDtype = "bfloat16"
    compute: Compute = "float32"
    shard_rows: tuple[int, ...] = ()
    truncated: int = 0

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> EncoderInfo:
        """The inverse of `dataclasses.asdict`, from JSON. Raises TypeError or KeyError."""
        fields: dict[str, Any] = {**value, "shard_rows": tuple(value["shard_rows"])}
        return cls(**fields)

    @property
    def rows(self) -> int:
        """Of all shards together."""
        return sum(self.shard_rows)

    def same_rows(self, other: EncoderInfo) -> bool:
        """Whether equal texts have equal bytes with both, whatever the folders are called."""
        return (self.digest, self.dtype) == (other.digest, other.dtype)


def text_files(encoder: EncoderInfo) -> list[str]:
    """Every file, relative to the table, of an encoder's embeddings: the keys, then the rows."""
    shards = len(encoder.shard_rows)
    rows = [
        text_file(encoder.name, shard, shards, rows)
        for shard, rows in enumerate(encoder.shard_rows)
        if rows
    ]
    return [text_keys(encoder.name, encoder.rows), *rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageCount:
    """What one stage of making records did: the half of its cost that is the same in every run.

    Attributes:
        calls: how often.
        bytes: that came out of it; 0 for "read", where they are not known.
    """

    calls: int
    bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One dataset of a table.

    Attributes:
        name, version, license: as in its records.
        num_shards: of each split.
        shard_rows: split -> rows of each shard.
        episodes, views, chunks, frames: totals; an episode seen by three cameras is three views.
        dead_letters, declared_losses: what was lost, and what the source itself had given up.
        losses: stage -> rows of dead_letters.parquet, declared ones included.
        clipped: control values outside their slot's range or the source's bounds, by slot name.
        controls: slot name -> {"min", "max", "mean", "std"} over all frames but the first.
        slots: names of the slots that its mask sets.
        stages: "read", "decode", "resize", "encode", "write" -> what making its shards took, what
            was lost or forgotten since included. Empty if a program made some that did not count.
    """

    name: str
    version: str
    license: str
    num_shards: int
    shard_rows: dict[str, list[int]]
    episodes: int
    views: int
    chunks: int
    frames: int
    dead_letters: int
    declared_losses: int
    losses: dict[str, int]
    clipped: dict[str, int]
    controls: dict[str, dict[str, float]]
    slots: list[str]
    stages: dict[str, StageCount] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> DatasetInfo:
        """The inverse of `dataclasses.asdict`, from JSON. Raises TypeError or AttributeError."""
        stages = {k: StageCount(**v) for k, v in value.get("stages", {}).items()}
        fields: dict[str, Any] = {**value, "stages": stages}
        return cls(**fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgotten:
    """Records that were taken out of a table, and are kept out when it is changed again.

    Attributes:
        source, license, uri: what their passports had: the dataset's name, the licence, a prefix of
            `source_uri` (relative as in the records, or below the path it was prepared from). Those
            that are not None, all of them.
        records: dataset -> how many.
        before: hex BLAKE2b-128 of the manifest that listed them.
    """

    source: str | None = None
    license: str | None = None
    uri: str | None = None
    records: dict[str, int] = dataclasses.field(default_factory=dict)
    before: str = ""

    def matches(self, *, source: str, license: str, uris: Sequence[str]) -> bool:
        """Whether a record is one of them; `uris` are the ways to write its one."""
        return (
            self.source in (None, source)
            and self.license in (None, license)
            and (self.uri is None or any(uri.startswith(self.uri) for uri in uris))
        )

    def __str__(self) -> str:
        given = {"source": self.source, "licence": self.license, "uri": self.uri}
        return ", ".join(f"{name} {value}" for name, value in given.items() if value is not None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a table holds. It has no times and no machine names: equal tables, equal bytes.

    Attributes:
        schema_version: `record.SCHEMA_VERSION` of its records.
        plan: hex digest of the plan that made it.
        tiers: as text, "24x40:raw".
        datasets: what is in it.
        encoders: what its texts are embedded by; the first is the table's own, which training
            takes where nothing else is said.
        files: path relative to the table -> [bytes, hex BLAKE2b-128].
        forgotten: what `unisim forget` took out, the oldest first.
    """

    schema_version: int
    plan: str
    tiers: list[str]
    datasets: list[DatasetInfo]
    encoders: tuple[EncoderInfo, ...]
    files: dict[str, list[Any]]
    forgotten: tuple[Forgotten, ...] = ()

    def to_json(self) -> str:
        return dump_json(dataclasses.asdict(self))

    def encoder(self, name: str | None = None) -> EncoderInfo:
        """One of its encoders; None is the table's own. Raises UsageError if it has no such."""
        for encoder in self.encoders:
            if name in (None, encoder.name):
                return encoder
        names = [encoder.name for encoder in self.encoders]
        raise UsageError(
            f"--encoder {name}: the table has no embeddings of that name (`unisim embed` adds an"
            f" encoder's); {did_you_mean(str(name), names)}"
        )

    def digest(self) -> str:
        """Hex BLAKE2b-128 of its JSON."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()

    def with_encoder(
        self, info: EncoderInfo, files: dict[str, list[Any]], before: EncoderInfo | None
    ) -> Manifest:
        """With an encoder's embeddings, in place of those that it had before.

        Args:
            files: those that are new, of all that `info` has.
        """
        encoders = {encoder.name: encoder for encoder in self.encoders} | {info.name: info}
        known = self.files | files
        old = set(text_files(before)) if before else set()
        listed = {name: known[name] for name in self.files if name not in old}
        listed |= {name: known[name] for name in text_files(info)}
        return dataclasses.replace(
            self, encoders=tuple(encoders.values()), files=dict(sorted(listed.items()))
        )

    def text_files(self) -> dict[str, list[Any]]:
        """Those of `files` that hold embeddings."""
        return {name: value for name, value in self.files.items() if name.startswith("text/")}

    def without_text(self) -> str:
        """The JSON of all but the embeddings: what stays the same when texts are added."""
        kept = {name: self.files[name] for name in self.files.keys() - self.text_files().keys()}
        return dataclasses.replace(self, encoders=(), files=kept).to_json()

    @classmethod
    def from_json(cls, text: str, path: str = MANIFEST) -> Manifest:
        """Raises UsageError if the text is not a manifest of this schema version."""
        try:
            value = json.loads(text)
            if value["schema_version"] != SCHEMA_VERSION:
                raise UsageError(
                    f"{path}: schema version {value['schema_version']}, this program reads"
                    f" {SCHEMA_VERSION}; prepare the table again with this version"
                )
            made = cls(
                **value
                | {
                    "datasets": [DatasetInfo.from_dict(d) for d in value["datasets"]],
                    "encoders": tuple(EncoderInfo.from_dict(e) for e in value["encoders"]),
                    "forgotten": tuple(Forgotten(**f) for f in value["forgotten"]),
                }
            )
            _refuse_foreign(made)
            return made
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise UsageError(
                f"{path}: not a manifest ({e}); prepare the table again, or restore the file"
            ) from e


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def _refuse_foreign(manifest: Manifest) -> None:
    """Raises ValueError for names that lead out of the table, and for numbers that are none."""
    for name, (size, digest) in manifest.files.items():
        inside = all(part not in ("", ".", "..") for part in name.split("/"))
        if not inside or "\\" in name or "\0" in name or "://" in name:
            raise ValueError(f"the file {name!r} is not in the table")
        if not (isinstance(size, int) and isinstance(digest, str)):
            raise ValueError(f"the file {name!r} has no size and digest")
    names = [d.name for d in manifest.datasets] + [e.name for e in manifest.encoders]
    for name in names + [d.version for d in manifest.datasets]:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name")
    for tier in manifest.tiers:
        Tier.parse(tier)
    for d in manifest.datasets:
        counts = (d.episodes, d.views, d.chunks, d.frames, d.dead_letters, d.declared_losses)
        for count in (*counts, *d.clipped.values(), *d.losses.values()):
            if not isinstance(count, int):
                raise ValueError(f"{d.name} has a count of {count!r}")
        for split, rows in d.shard_rows.items():
            if split not in SPLITS or len(rows) != d.num_shards or not _are_counts(rows):
                raise ValueError(f"{d.name} has no rows of {d.num_shards} shards in {split!r}")
    for e in manifest.encoders:
        if not _are_counts((e.width, e.max_tokens, *e.shard_rows)) or not e.width:
            raise ValueError(f"{e.name} has numbers that are none")


def _are_counts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and value >= 0 for value in values)


def dump_json(value: Any) -> str:
    """JSON for files that people read and digests cover: sorted, indented, ending in a newline."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def tfds_files(dataset: DatasetInfo, tier: Tier, num_bytes: dict[str, int]) -> dict[str, str]:
    """`features.json` and `dataset_info.json` of a dataset's folder at a tier, by file name.

    Args:
        num_bytes: split -> size of its files together.
    """
    splits = [
        {
            "name": split,
            "filepathTemplate": FILE_TEMPLATE,
            "shardLengths": [str(rows) for rows in dataset.shard_rows[split]],
            "numBytes": str(num_bytes[split]),
        }
        for split in dataset.shard_rows
    ]
    info = {
        "name": dataset.name,
        "version": dataset.version,
        "fileFormat": "array_record",
        "moduleName": "open_unisim",
        "description": "UniSim records: action in, video out. One record is one schemas.Chunk.",
        "redistributionInfo": {"license": dataset.license},
        "splits": splits,
    }
    return {"features.json": dump_json(features(tier)), "dataset_info.json": dump_json(info)}
