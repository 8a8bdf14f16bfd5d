"""Matterport3D: panoramas of houses; a change of the camera's pose between two crops is the action.

The owners' files (github.com/niessner/Matterport, data_organization.md): six faces of a skybox per
panorama, 18 undistorted photographs with 16-bit depth, and their cameras in a .conf. Poses of the
skyboxes, and who can be reached from where, are in the connectivity files of Matterport3DSimulator
(github.com/peteanderson80/Matterport3DSimulator); Room-to-Room adds routes with instructions.
Without connectivity a scan has looks only.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from pathlib import Path

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, SourceInfo, Unit, split_of
from pipelines.ops.labels import clean_text
from pipelines.sources import _matterport3d_fake
from pipelines.sources._matterport3d_scan import Scan
from pipelines.sources._names import Range, ranges
from pipelines.sources._tour import CONTROLS, FPS, OPTIONS, Tour
from schemas import DataError, UsageError

INFO = SourceInfo(
    name="matterport3d",
    title="Matterport3D, with the connectivity and the routes of Room-to-Room",
    homepage="https://niessner.github.io/Matterport",
    license="Matterport End User License Agreement for Academic Use of Model Data",
    version="1.0.0",
    reads="skybox JPEGs, .conf cameras with 16-bit depth, connectivity JSON, R2R JSON",
    layout="""\
PATH/
  {scan}/matterport_skybox_images/{pano}_skybox0_sami.jpg …   six square faces each
  {scan}/undistorted_camera_parameters/{scan}.conf            with depth: overlap is measured
  {scan}/undistorted_depth_images/{pano}_d0_0.png …           by it; without, by frustum
  {scan}/undistorted_color_images/{pano}_i0_0.jpg …           for --option between alone
  connectivity/{scan}_connectivity.json                       without it: looks only
  R2R_train.json, R2R_val_seen.json, R2R_val_unseen.json      routes with instructions, if there
  scenes_train.txt, scenes_val.txt, scenes_test.txt           the owners' split by scan, if there;
                                                              else 1% of the scans are val
""",
    obtain="""\
Sign the terms of use at niessner.github.io/Matterport, then download_mp.py -o PATH --type
matterport_skybox_images undistorted_camera_parameters undistorted_depth_images; unpack v1/scans.
Connectivity and R2R: the folders connectivity and tasks/R2R of Matterport3DSimulator. The scenes_*
lists: tasks/benchmark of the owners' repository.""",
    native_fps=FPS,
    target_fps=None,
    controls=CONTROLS,
    options=OPTIONS,
    every_frame=True,
    fit="stretch",
    examples="3.5M",
    weight=0.1,
)

_SCAN = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PANO = re.compile(r"([A-Za-z0-9_-]{1,64})_(?:skybox[0-5]_sami\.jpg|d[0-2]_[0-5]\.png)")
_SPLITS = ("train", "val", "test")
_MAX_SPLIT = 1 << 20
# what a scan's panorama becomes, for the plan: looks, steps, ways out and a walk
_EPISODES, _FRAMES = 8, 160


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Each scan's panoramas by name, in parts of about `target_bytes` of skyboxes and depth.

    Raises:
        UsageError: if there is no skybox.
    """
    suffix = "_connectivity.json"
    graphs = {
        files.name_of(uri).removesuffix(suffix)
        for uri, _ in files.glob(path, "connectivity", f"*{suffix}")
    }
    routes = [files.name_of(uri) for uri, _ in files.glob(path, "R2R_*.json")]
    splits = _splits(path)
    sizes: dict[str, dict[str, int]] = collections.defaultdict(collections.Counter)
    faces: dict[str, int] = collections.Counter()
    for kind in ("matterport_skybox_images", "undistorted_depth_images"):
        for uri, size in files.glob(path, "*", kind, "*"):
            scan = uri.rsplit("/", 3)[1]
            faces[scan] += kind.startswith("matterport")
            if match := _PANO.fullmatch(files.name_of(uri)):
                sizes[scan][match[1]] += size
    if not any(faces.values()):
        raise UsageError(
            f"{path}: found no {{scan}}/matterport_skybox_images/*.jpg; give the folder that holds"
            " the scans; `unisim sources matterport3d` shows it"
        )
    for scan in sorted(set(faces) | graphs | set(splits)):
        if not _SCAN.fullmatch(scan):
            where = clean_text(files.join(path, scan))
            raise UsageError(f"{where}: not named for a scan; move it elsewhere")
        for part, (names, mine) in enumerate(ranges(sizes[scan], target_bytes)):
            yield Unit(
                id=f"{scan}.{part:04d}",
                uri=files.join(path, scan),
                split=splits.get(scan) or split_of(INFO.name, scan),
                cost=sum(sizes[scan][name] for name in mine),
                episodes=_EPISODES * len(mine),
                frames=_FRAMES * len(mine),
                version=INFO.version,
                params={
                    "names": names,
                    "graph": f"connectivity/{scan}{suffix}" if scan in graphs else "",
                    "routes": routes,
                },
            )


def _splits(path: str) -> dict[str, str]:
    """Scan -> split, as the owners' lists have it."""
    found = {}
    for split in _SPLITS:
        for uri, size in files.glob(path, f"scenes_{split}.txt"):
            if size > _MAX_SPLIT:
                raise UsageError(f"{uri}: {size} bytes, more than {_MAX_SPLIT}: no list of scans")
            listed = files.read(uri).decode("utf-8", "replace").split()
            found |= {scan: split for scan in listed if _SCAN.fullmatch(scan)}
    return found


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """The episodes that begin at the unit's panoramas, in the order of their ids, each followed by
    the routes from there. What is wrong with the scan as a whole is said by its first unit.

    Raises:
        DataError: if the scan is listed but absent, or its connectivity cannot be read.
    """
    root, name = unit.uri.rsplit("/", 1)
    if not files.exists(unit.uri):
        raise DataError(f"scan {name} is listed, but not there", key=name, counts=False)
    scan = Scan(root, name, unit.params["graph"], unit.params["routes"])
    errors = [(error.key.removeprefix(name).lstrip("."), error) for error in scan.errors]
    tour = Tour(name, scan.panos, unit, INFO)
    yield from tour.episodes(Range(*unit.params["names"]), scan.routes, errors)


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """Two small houses of made-up rooms, one with depth and routes, one without depth.

    With `traps` also a face that is missing, one of another size, a line of a .conf that is none,
    poses that are not rigid, depth of zeros, flags for panoramas that do not exist, one that is
    excluded, a pair behind a wall, and a scan that is listed but absent.
    """
    return _matterport3d_fake.write(root / INFO.name, seed, traps=traps)
