"""Writing small RLDS folders as TFDS does, for the fakes of the RLDS sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.ops import tfrecord
from schemas.table import dump_json

LEAF = {"pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor"}


def features(fields: dict[str, Any]) -> dict[str, Any]:
    """Nested names as features.json has them."""
    return {"featuresDict": {"features": fields}}


def steps(step: dict[str, Any]) -> dict[str, Any]:
    """features.json of a dataset whose steps have the features `step`."""
    return features({"steps": {"sequence": {"feature": features(step)}}})


def write(
    folder: Path,
    name: str,
    described: dict[str, Any],
    splits: dict[str, list[list[bytes]]],
    *,
    counted: bool = True,
) -> None:
    """Writes split -> shards -> records as a TFDS folder; its own name is the version.

    Args:
        described: the content of features.json.
        counted: whether files are named `-NNNNN-of-NNNNN`, not just `-NNNNN`.
    """
    for split, shards in splits.items():
        for i, items in enumerate(shards):
            of = f"-of-{len(shards):05d}" if counted else ""
            with (folder / f"{name}-{split}.tfrecord-{i:05d}{of}").open("wb") as stream:
                tfrecord.write(stream, items)
    shard = "SHARD_X_OF_Y" if counted else "SHARD_INDEX"
    info = {
        "name": name,
        "version": folder.name,
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split,
                "filepathTemplate": f"{{DATASET}}-{{SPLIT}}.{{FILEFORMAT}}-{{{shard}}}",
                "shardLengths": [str(len(items)) for items in shards],
                "numBytes": str(sum(len(item) for items in shards for item in items)),
            }
            for split, shards in splits.items()
        ],
    }
    (folder / "dataset_info.json").write_text(dump_json(info))
    (folder / "features.json").write_text(dump_json(described))


def spoil(path: Path, position: int) -> None:
    """Inverts one byte of a file, which then does not match its checksum."""
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)
