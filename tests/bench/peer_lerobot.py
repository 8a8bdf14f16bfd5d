"""LeRobotDataset of the `lerobot` library writing episodes, in a Python of its own.

`timing.Peer` runs it; it imports nothing of the project. Requests and answers are lines of JSON:

    {"library": "lerobot", "folder": "JPEGS", "out": "OUT", "kind": "image"}
    {"seconds": 9.1}

The folder holds `EPISODE/STEP.jpg`, which are decoded, resized to 192x320 by area, and added with
seven numbers of action and state each; `kind` is "image" or "video", as the library has them.
Seconds are those of the core, of all threads and processes, without imports.
"""

import importlib
import json
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

CAMERA = "observation.images.front"
HEIGHT, WIDTH, FPS = 192, 320, 5
TASK = "moving the camera over a table"


def used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def write(library, folder: Path, out: Path, kind: str) -> None:
    vector = {"dtype": "float32", "shape": (7,), "names": [f"n{i}" for i in range(7)]}
    camera = {"dtype": kind, "shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    dataset = library.LeRobotDataset.create(
        repo_id="bench/clips",
        fps=FPS,
        root=out,
        robot_type="widowx",
        features={CAMERA: camera, "action": vector, "observation.state": vector},
        use_videos=kind == "video",
    )
    numbers = np.zeros(7, np.float32)
    for episode in sorted(folder.iterdir(), key=lambda path: int(path.name)):
        for path in sorted(episode.iterdir()):
            with Image.open(path) as image:
                small = image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
            frame = {CAMERA: np.asarray(small), "action": numbers, "observation.state": numbers}
            dataset.add_frame(frame | {"task": TASK})
        dataset.save_episode()
    dataset.finalize()


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # the library writes there as it likes
    library = importlib.import_module("lerobot.datasets.lerobot_dataset")
    for line in sys.stdin:
        request = json.loads(line)
        out = Path(request["out"])
        shutil.rmtree(out, ignore_errors=True)
        begin = used()
        write(library, Path(request["folder"]), out, request["kind"])
        print(json.dumps({"seconds": used() - begin}), file=answers, flush=True)


if __name__ == "__main__":
    main()
