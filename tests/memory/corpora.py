"""The fake of each source, scaled up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pipelines import sources
from tests.memory.scale import big_tfrecord, long_video


def rlds(name: str) -> Callable[[Path], Path]:
    """One shard of the fake repeated to 2 GB."""

    def make(root: Path) -> Path:
        path = sources.get(name).fake(root, 0, traps=False)
        first, *others = sorted(path.glob("*.tfrecord*"))
        for other in others:
            other.unlink()
        count = big_tfrecord(first)
        info = json.loads((path / "dataset_info.json").read_text())
        info["splits"] = [s for s in info["splits"] if f"-{s['name']}." in first.name]
        info["splits"][0]["shardLengths"] = [str(count)]
        (path / "dataset_info.json").write_text(json.dumps(info))
        return path

    return make


def something_something_v2(root: Path) -> Path:
    """One clip that lasts two hours: one episode."""
    path = root / "ssv2"
    path.mkdir(parents=True)
    label = {"id": "1", "label": "moving a block", "template": "", "placeholders": []}
    (path / "train.json").write_text(json.dumps([label]))
    long_video(path / "1.mp4")
    return path


CORPORA: dict[str, Callable[[Path], Path]] = {
    "bridge": rlds("bridge"),
    "something_something_v2": something_something_v2,
}
