"""Writing the demo's corpus: Bridge RLDS, Something-Something V2 and img2dataset, all small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from infra.demo.tabletop import Pushed, push_episode
from pipelines import sources
from pipelines.sources import bridge

HEIGHT, WIDTH = 96, 160
_COMPLETE = "complete.json"


def write_corpus(
    root: Path, *, episodes: int = 240, seed: int = 0, tick: Callable[[int], None] = lambda n: None
) -> dict[str, Path]:
    """Writes the corpus below `root`, or finds it there; source name -> path for `--source`.

    Args:
        episodes: of the tabletop world.
        tick: told of episodes as they are written.
    """
    wanted = {"episodes": episodes, "seed": seed}
    folder = root / "bridge_dataset" / "1.0.0"
    stamp = root / _COMPLETE
    if stamp.exists():
        there = json.loads(stamp.read_text())
        if there["wanted"] == wanted:
            return {name: root / path for name, path in there["paths"].items()}
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for i in range(episodes):
        pushed = push_episode(np.random.default_rng((seed, i)), HEIGHT, WIDTH)
        records.append(bridge_record(pushed, i))
        tick(1)
    held_out = max(1, episodes // 20)
    train = records[held_out:]
    half = len(train) // 2
    splits = {"train": [train[:half], train[half:]], "val": [records[:held_out]]}
    bridge.write_rlds(folder, "bridge_dataset", splits)
    paths = {"bridge": folder}
    for name in ("something_something_v2", "laion"):
        paths[name] = sources.get(name).fake(root, seed, traps=False)
    relative = {name: str(path.relative_to(root)) for name, path in paths.items()}
    stamp.write_text(json.dumps({"wanted": wanted, "paths": relative}))
    return paths


def bridge_record(pushed: Pushed, number: int) -> bytes:
    """The episode as one Bridge 1.0.0 record: Δx Δy of the end effector, the gripper closed."""
    actions = np.zeros((len(pushed.moves), 7), np.float32)
    actions[:, :2] = pushed.moves
    states = np.zeros_like(actions)
    states[:, :2] = pushed.tips
    return bridge.record(actions, states, pushed.frames, pushed.text, number)
