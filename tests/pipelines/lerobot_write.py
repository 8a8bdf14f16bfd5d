"""Writes a small dataset with the `lerobot` library and dumps what the library reads back.

`test_lerobot_library.py` runs it with a Python that has `lerobot`: it imports nothing of
the project.

    python lerobot_write.py FOLDER video|image

writes FOLDER/dataset, and FOLDER/expected.npz with the library's version and format, and per
episode and camera the pixels, actions, states and tasks by frame.
"""

import importlib
import importlib.metadata
import inspect
import sys
from pathlib import Path

import numpy as np

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
NAMES = [f"main_{joint}" for joint in JOINTS]
CAMERAS = ("observation.images.front", "observation.images.wrist")
LENGTHS = (20, 17, 23)
TASKS = ("push the square left", "lift the square", "put the square down")
FPS, SHAPE = 10, (96, 128, 3)


def module():
    """`lerobot_dataset`, wherever this version of the library keeps it."""
    for name in ("lerobot.datasets", "lerobot.common.datasets"):
        try:
            return importlib.import_module(f"{name}.lerobot_dataset")
        except ModuleNotFoundError:
            continue
    raise SystemExit("this Python has no lerobot")


def frames(rng: np.random.Generator, episode: int):
    """One episode's frames as `add_frame` takes them; its task changes half way."""
    n = LENGTHS[episode]
    ground, place = rng.integers(40, 200, (2, 3)), rng.integers(8, 48, 2)
    for i in range(n):
        images = {}
        for camera, colour in zip(CAMERAS, ground, strict=True):
            image = np.full(SHAPE, colour, np.uint8)
            image[place[0] : place[0] + 32, place[1] + 2 * i : place[1] + 2 * i + 32] = (
                230,
                60,
                40,
            )
            images[camera] = image
        action = np.concatenate([rng.uniform(-120, 120, 5), rng.uniform(0, 100, 1)])
        state = np.concatenate([rng.uniform(-120, 120, 5), rng.uniform(0, 100, 1)])
        yield images | {
            "action": action.astype(np.float32),
            "observation.state": state.astype(np.float32),
            "task": TASKS[(episode + (i >= n // 2)) % len(TASKS)],
        }


def write(dataset_class, root: Path, kind: str) -> None:
    vector = {"dtype": "float32", "shape": (6,), "names": NAMES}
    camera = {"dtype": kind, "shape": SHAPE, "names": ["height", "width", "channels"]}
    dataset = dataset_class.create(
        repo_id="fake/square",
        fps=FPS,
        root=root,
        robot_type="so100",
        features=dict.fromkeys(CAMERAS, camera) | {"action": vector, "observation.state": vector},
        use_videos=kind == "video",
    )
    separate = "task" in inspect.signature(dataset.add_frame).parameters
    rng = np.random.default_rng(5)
    for episode in range(len(LENGTHS)):
        for frame in frames(rng, episode):
            if separate:
                task = frame.pop("task")
                dataset.add_frame(frame, task=task)
            else:
                dataset.add_frame(frame)
        dataset.save_episode()
    if hasattr(dataset, "finalize"):
        dataset.finalize()


def read(dataset_class, root: Path) -> dict[str, np.ndarray]:
    """What the library itself reads, by "episode/key"."""
    dataset = dataset_class("fake/square", root=root, video_backend="pyav")
    found: dict[str, list] = {}
    for i in range(len(dataset)):
        item = dataset[i]
        episode = int(item["episode_index"])
        for key in (*CAMERAS, "action", "observation.state"):
            value = item[key].numpy()
            if key in CAMERAS:
                value = np.round(value * 255).astype(np.uint8).transpose(1, 2, 0)
            found.setdefault(f"{episode}/{key}", []).append(value)
        found.setdefault(f"{episode}/task", []).append(item["task"])
    return {key: np.array(values) for key, values in found.items()}


def main(folder: Path, kind: str) -> None:
    library = module()
    write(library.LeRobotDataset, folder / "dataset", kind)
    found = read(library.LeRobotDataset, folder / "dataset")
    found["version"] = np.array(importlib.metadata.version("lerobot"))
    found["format"] = np.array(library.CODEBASE_VERSION)
    np.savez(folder / "expected.npz", **found)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
