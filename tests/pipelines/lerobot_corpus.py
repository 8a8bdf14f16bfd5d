"""Reading a LeRobotDataset as the pipeline does, and changing its files, for its tests."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ops.unify import unify
from pipelines.sources import lerobot
from schemas import SLOTS, DataError

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LISTING = "meta/episodes/chunk-000/file-000.parquet"
FAKES = {"v3.0": lerobot.fake, "v2.1": lerobot.fake_v21}
SLOT_NAMES = [slot.name for slot in SLOTS]
JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]


def read(path: Path, target_bytes: int = 16_000_000) -> tuple[dict, dict[str, str]]:
    """(episode@view -> steps in the unified slots, what is lost -> reason), pixels decoded."""
    good, lost = {}, {}
    for unit in lerobot.units(str(path), target_bytes):
        assert json.loads(json.dumps(unit.params)) == unit.params
        try:
            for item in lerobot.episodes(unit):
                if isinstance(item, DataError):
                    lost[item.key] = item.reason
                    continue
                name = f"{item.id}@{item.view}"
                assert name not in good and name not in lost
                try:
                    steps = list(unify(item.frames, item.controls))
                    good[name] = [(step, step.image()) for step in steps]
                except DataError as e:
                    lost[name] = e.reason
        except DataError as e:
            lost[unit.id] = e.reason
    return good, lost


def names(*numbers: int) -> set[str]:
    return {f"{i:06d}@{view}" for i in numbers for view in ("front", "wrist")}


def edit(path: Path, change) -> None:
    """Changes a JSON object in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rewrite(path: Path, change) -> None:
    """Changes a parquet file's rows, a list of dicts."""
    rows = pq.read_table(path).to_pylist()
    pq.write_table(pa.Table.from_pylist(change(rows) or rows), path)


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def consume(episode) -> None:
    try:
        for step in unify(episode.frames, episode.controls):
            step.image()
    except DataError:
        return
