"""Bridge as it came off the robot: a folder per trajectory, JPEG frames and two pickles.

Layout and the pairing of images with actions are those of the owners' converters
(rail-berkeley/bridge_data_v2, data_processing/bridgedata_raw_to_numpy.py; kvablack/dlimp). For T
images in each `images*` there are T - 1 actions, and action t leads from image t to t + 1. In
recordings before 2021-07-23 the cameras lagged one step behind: image t + 1 shows the arm as it
was when action t began, so image 0 and the last action are left out and action t leads from image
t + 1 to t + 2.

The folders carry no version; they are `VERSION` in the table, for BridgeData V2, so that they are
never taken for one of the RLDS releases. Pickles are read by `ops.pickles`, never by pickle.
"""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines import files
from pipelines.episode import Episode, Unit
from pipelines.ops import pickles
from pipelines.ops.images import EncodedImage, encode_jpeg
from pipelines.ops.labels import clean_text
from pipelines.sources import _bridge
from schemas import DataError, UsageError

RELEASE = "raw"
VERSION = "2.0.0"
CONTROLS = _bridge.table(RELEASE, (f"actions[{i}]" for i in range(7)))

_ON_TIME = "2021-07-23"  # the cameras' lag was gone from this day on
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.,+=&() -]*"
_TRAJECTORY = re.compile(rf"(?:{_PART}/)*raw/traj_group{_PART}/traj{_PART}")
_FOLDER = re.compile(r"((?:.*/)?raw/traj_group[^/]*/traj[^/]*)/[^/]+(/im_0\.jpg)?", re.DOTALL)
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)_\d\d-\d\d-\d\d.*")
_IMAGE = re.compile(r"(images\d)/im_(0|[1-9]\d{0,5})\.jpg")
_DEEPEST = 8  # folders between PATH and raw/
_MAX_IMAGE_BYTES = 64 << 20
_MAX_TEXT_BYTES = 1 << 20
_UNIT_TRAJECTORIES = 1000


def units(path: str, target_bytes: int) -> Iterator[Unit]:
    """Runs of consecutive trajectories with about `target_bytes` each, by the listing alone.

    Only what stands directly in the trajectories' folders and the first image of each camera are
    listed, since a list of all images would not fit a machine: a camera's bytes are a guess from
    its first image and from the size of obs_dict.pkl, which grows with the number of steps.

    Raises:
        UsageError: if there is no trajectory below the path.
    """
    first, group, cost, frames = 0, [], 0, 0
    trajectories = sorted(_trajectories(path).items())
    mean = sum(found.states for _, found in trajectories) / len(trajectories)
    for number, (name, found) in enumerate(trajectories, 1):
        long = found.states / mean if found.states else 1.0
        steps = round(_bridge.FRAMES_PER_EPISODE * long)
        group.append(name)
        cost += found.size + found.images * steps
        frames += found.cameras * steps
        whole = cost >= target_bytes or len(group) >= _UNIT_TRAJECTORIES
        if whole or number == len(trajectories):
            yield Unit(
                id=f"raw-{first:06d}",
                uri=path,
                split=None,
                cost=cost,
                episodes=len(group),
                frames=frames,
                version=VERSION,
                params={"release": RELEASE, "trajectories": group},
            )
            first, group, cost, frames = number, [], 0, 0


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """Every used camera's view of every trajectory of the unit.

    A camera whose images cannot be used costs its view, everything else the trajectory.
    """
    for name in unit.params["trajectories"]:
        folder = files.join(unit.uri, name)
        try:
            yield from _views(unit.uri, name, folder)
        except DataError as e:
            yield DataError(e.reason, stage=e.stage, key=name, uri=e.uri or folder, counts=e.counts)


class _Listed(NamedTuple):
    """What the listing tells of a trajectory, in bytes: of what stands in its folder, of
    obs_dict.pkl alone, and of its cameras' first images; and how many cameras there are."""

    size: int = 0
    states: int = 0
    images: int = 0
    cameras: int = 0


def _trajectories(path: str) -> dict[str, _Listed]:
    """By folder below `path`."""
    root = path.rstrip("/") + "/"
    found: dict[str, _Listed] = {}
    for above, last in itertools.product(_above(path), (("*",), ("images*", "im_0.jpg"))):
        for uri, size in files.glob(path, *above, "traj_group*", "traj*", *last):
            match = _FOLDER.fullmatch(uri.removeprefix(root))
            if match:
                # quoted, it is plain text for the plan and fits no trajectory's path
                name = match[1] if _TRAJECTORY.fullmatch(match[1]) else ascii(match[1])[:200]
                more = _Listed(size, size * uri.endswith("/obs_dict.pkl"))
                more = _Listed(0, 0, size, 1) if match[2] else more
                found[name] = _Listed(*map(sum, zip(found.get(name, _Listed()), more, strict=True)))
    if not found:
        raise UsageError(
            f"{path}: no dataset_info.json here, so no RLDS release, and no"
            " DATE/raw/traj_group*/traj*/ below, so no raw recordings; give the version folder or"
            " a folder above the dates; `unisim sources bridge` shows both"
        )
    return found


def _above(path: str) -> list[tuple[str, ...]]:
    """Patterns of what stands between `path` and the groups. Walking a local folder of millions of
    images is avoided; a remote one is listed whole anyhow."""
    if not files.is_local(path):
        return [("**raw",)]
    return [(*["*"] * depth, "raw") for depth in range(_DEEPEST)]


def _views(root: str, name: str, folder: str) -> Iterator[Episode | DataError]:
    if not _TRAJECTORY.fullmatch(name):
        raise DataError("the path holds what no trajectory's path has", stage="annotate")
    lag = _lag(root, name)
    sizes = {uri.removeprefix(folder + "/"): size for uri, size in files.glob(folder, "**")}
    controls = _controls(folder, sizes, lag)
    text = _instruction(folder, sizes)
    cameras = _cameras(sizes)
    if not cameras:
        raise DataError("no images0/im_0.jpg or other image")
    black = True
    for camera, names in cameras.items():
        try:
            _check(names, len(controls) + lag, sizes)
            uris = [files.join(folder, image) for image in names[lag:]]
            images = [EncodedImage(partial(_read, uri), uri) for uri in uris]
            if not _bridge.used(images):
                continue
        except DataError as e:
            item = DataError(e.reason, stage=e.stage, key=f"{name}@{camera}", uri=e.uri or folder)
        else:
            item = Episode(
                id=name,
                view=camera,
                controls=CONTROLS,
                source_uri=folder,
                source_range=camera,
                frames=_bridge.frames(images, controls, [text] * len(images)),
            )
        black = False
        yield item
    if black:
        raise DataError("every camera is black in every frame", stage="decode")


def _lag(root: str, name: str) -> int:
    """By how many steps the cameras lag: 1 before `_ON_TIME`, by the date in the folder's name."""
    parts = name.split("/")
    dated = parts[-4] if len(parts) > 3 else files.name_of(root)
    if "lmdb" in dated:
        raise DataError("an lmdb folder, which the owners leave out as well", counts=False)
    date = _DATE.fullmatch(dated)
    if not date:
        raise DataError(
            f"{clean_text(dated)[:80]!r} is not named YYYY-MM-DD_hh-mm-ss, and without its date"
            " images and actions cannot be paired",
            stage="annotate",
        )
    return int(date[1] < _ON_TIME)


def _controls(folder: str, sizes: dict[str, int], lag: int) -> np.ndarray:
    """float64 `[t, 7]`: the control of each image that is used."""
    actions = _actions(_pickle(folder, "policy_out.pkl", sizes))
    states = _states(_pickle(folder, "obs_dict.pkl", sizes))
    # where the cameras lag, the last state may be missing as well
    if len(states) not in (len(actions) + 1, len(actions) + 1 - lag):
        raise DataError(f"{len(states)} states for {len(actions)} actions")
    if len(actions) <= lag:
        raise DataError("no action with an image before and after it")
    return _bridge.motions(actions[: len(actions) - lag], states[lag, 6])


def _pickle(folder: str, name: str, sizes: dict[str, int]) -> Any:
    uri = files.join(folder, name)
    if sizes.get(name, 0) > pickles.MAX_BYTES:
        raise DataError(f"{name} has {sizes[name]} bytes, more than {pickles.MAX_BYTES}", uri=uri)
    data = _read(uri)
    try:
        return pickles.load(data)
    except DataError as e:
        raise DataError(f"{name}: {e.reason}", uri=uri) from e


def _read(uri: str) -> bytes:
    try:
        return files.read(uri)
    except FileNotFoundError as e:
        raise DataError(f"{files.name_of(uri)} is missing", uri=uri) from e


def _actions(value: Any) -> np.ndarray:
    """float64 `[n, 7]` of what policy_out.pkl holds: a dict or an array per step."""
    steps = value if isinstance(value, list | tuple) else [value]
    rows = [step.get("actions") if isinstance(step, dict) else step for step in steps]
    if isinstance(value, np.ndarray) and value.ndim == 2:
        rows = list(value)
    for number, row in enumerate(rows):
        if not isinstance(row, np.ndarray) or row.shape != (7,):
            raise DataError(f"policy_out.pkl: the action of step {number} is not 7 numbers")
    return np.array(rows, np.float64).reshape(-1, 7)


def _states(value: Any) -> np.ndarray:
    """`[t, 7]`: position, roll, pitch, yaw and how far the gripper is open."""
    states = value.get("full_state") if isinstance(value, dict) else None
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.shape[1] != 7:
        raise DataError("obs_dict.pkl: full_state is not 7 numbers per image")
    return states


def _instruction(folder: str, sizes: dict[str, int]) -> str:
    """The first line of lang.txt; "" without one. What follows are its annotators' confidences,
    which also stand alone."""
    uri = files.join(folder, "lang.txt")
    if "lang.txt" not in sizes:
        return ""
    if sizes["lang.txt"] > _MAX_TEXT_BYTES:
        raise DataError(f"lang.txt has {sizes['lang.txt']} bytes", stage="annotate", uri=uri)
    try:
        line = _read(uri).split(b"\n", 1)[0].decode().strip()
    except UnicodeDecodeError as e:
        reason = f"lang.txt is not UTF-8 ({e.reason} at byte {e.start})"
        raise DataError(reason, stage="annotate", uri=uri) from e
    return "" if line.lower().startswith("confidence:") else line


def _cameras(sizes: dict[str, int]) -> dict[str, list[str]]:
    """Camera -> its images by number, which by name would put 10 before 2."""
    found: dict[str, dict[int, str]] = {}
    for name in sizes:
        match = _IMAGE.fullmatch(name)
        if match:
            found.setdefault(match[1], {})[int(match[2])] = name
    return {camera: [images[n] for n in sorted(images)] for camera, images in sorted(found.items())}


def _check(images: list[str], n: int, sizes: dict[str, int]) -> None:
    """Raises DataError unless there are n images of bearable size, from im_0.jpg on."""
    if len(images) != n or not images[-1].endswith(f"/im_{n - 1}.jpg"):
        raise DataError(
            f"{len(images)} images up to {images[-1]} for {n - 1} actions, wanted im_0.jpg to"
            f" im_{n - 1}.jpg"
        )
    largest = max(images, key=sizes.__getitem__)
    if sizes[largest] > _MAX_IMAGE_BYTES:
        raise DataError(f"{largest} has {sizes[largest]} bytes, more than {_MAX_IMAGE_BYTES}")


_FAKE_DATES = (
    "rss/toykitchen2/set_table/00/2022-01-01_00-00-00",
    "icra/toysink1/lift_bowl/03/2021-07-01_12-00-00",  # its cameras lag
)


def fake(root: Path, seed: int, *, traps: bool = True, episodes: int = 4) -> Path:
    """Raw recordings of a moving square from both sides of 2021-07-23, seen by two cameras.

    With `traps` also a camera that was off, depth images, a pickle that asks for a function, a
    missing pickle, a cut image, a missing image, and a folder of the kind that the owners leave
    out. Even without them there are more than ten images, no lang.txt in some trajectories, a
    confidence in others, and actions as dicts and as arrays.
    """
    rng = np.random.default_rng(seed)
    top = root / "bridge_data_raw"
    folders = []
    for i in range(max(episodes, 8) if traps else episodes):
        folder = top / _FAKE_DATES[i % 2] / "raw" / "traj_group0" / f"traj{i // 2}"
        _fake_trajectory(folder, rng, i)
        folders.append(folder)
    if traps:
        _fake_camera(folders[0] / "images2", np.zeros((13, 48, 64, 3), np.uint8))
        _fake_camera(folders[0] / "depth_images0", np.zeros((2, 48, 64, 3), np.uint8), "png")
        (folders[2] / "policy_out.pkl").write_bytes(b"\x80\x03cposix\ngetpid\n)R.")
        (folders[3] / "obs_dict.pkl").unlink()
        image = folders[4] / "images1" / "im_3.jpg"
        image.write_bytes(image.read_bytes()[:200])
        (folders[5] / "images0" / "im_4.jpg").unlink()
        dated = top / f"{_FAKE_DATES[0]}lmdb" / "raw" / "traj_group0" / "traj0"
        _fake_trajectory(dated, rng, 0)
    return top


def _fake_trajectory(folder: Path, rng: np.random.Generator, number: int) -> None:
    n = 13 if number == 0 else int(rng.integers(12, 20))
    actions, states, images = _bridge.fake_push(rng, n)
    if number % 2:
        images = images[[0, *range(n - 1)]]
    folder.mkdir(parents=True)
    _fake_camera(folder / "images0", images)
    _fake_camera(folder / "images1", images[:, :, ::-1])
    steps = [{"actions": a, "policy_type": "VRTeleopPolicy"} for a in actions[:-1]]
    _fake_pickle(folder / "policy_out.pkl", steps if number % 4 < 2 else list(actions[:-1]))
    observed = {"full_state": states, "state": states, "time_stamp": 1.6e9 + np.arange(n) / 5}
    _fake_pickle(folder / "obs_dict.pkl", observed)
    if number % 3:
        (folder / "lang.txt").write_text(f"push the square {number}\nconfidence: 1\n")


def _fake_camera(folder: Path, images: np.ndarray, suffix: str = "jpg") -> None:
    folder.mkdir()
    for i, image in enumerate(images):
        (folder / f"im_{i}.{suffix}").write_bytes(encode_jpeg(np.ascontiguousarray(image)))


def _fake_pickle(path: Path, value: Any) -> None:
    """As numpy 1 and Python 3.7 wrote it."""
    data = pickle.dumps(value, protocol=3)
    path.write_bytes(data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
