"""Equirectangular panoramas from anywhere: a change of the camera's pose is the action.

Any folder of equirectangular images; HM3D's panoramas, photographs, HDR environments. A poses.json
beside the images says where each was taken, and may add depth and who can be reached. Its fields:

    {"world": "z_up",            of the poses: "z_up" or "y_up"
     "camera": "opencv",         whose axes they are in: "opencv", "opengl" or "body"
     "depth_per_metre": 1000,    units of the depth images, optional
     "license": "CC0-1.0",       of the images, optional
     "panoramas": [
       {"image": "kitchen.jpg",
        "pose": [1, 0, …],       16 numbers, row-major camera-to-world, of the camera that looks at
                                 the image's middle column
        "depth": "kitchen.png",  optional: 16-bit PNG, equirectangular, the *distance* from the
                                 camera in every direction, 0 for none
        "neighbours": ["hall.jpg"]}]}    optional: else those within --option panorama.reach

Without a poses.json there are looks only, and every image is taken as level.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pipelines import files
from pipelines.episode import UNIT_BYTES, Episode, Option, SourceInfo, Unit, split_of
from pipelines.ops.labels import clean_text
from pipelines.sources import _panorama_fake
from pipelines.sources._names import Range, ranges
from pipelines.sources._panorama_scan import IMAGE, Scan, with_depth
from pipelines.sources._tour import CONTROLS, FPS, OPTIONS, Tour
from schemas import DataError, UsageError

INFO = SourceInfo(
    name="panorama",
    title="Equirectangular panoramas",
    homepage="https://aihabitat.org/datasets/hm3d",
    license="unknown",
    version="1.0.0",
    reads="folders of equirectangular JPEG, PNG, WebP or Radiance HDR, with poses.json",
    layout="""\
PATH/
  *.jpg, *.png, *.webp, *.hdr   twice as wide as high: 360° by 180°, one scan
  poses.json                    where they were taken; without it: looks only
  {scan}/*.jpg …, poses.json    more scans, each with its own
poses.json:
  {"world": "z_up" or "y_up", "camera": "opencv", "opengl" or "body",
   "depth_per_metre": 1000, "license": "CC0-1.0",
   "panoramas": [{"image": "a.jpg", "pose": [16 numbers, row-major camera-to-world],
                  "depth": "a_depth.png", "neighbours": ["b.jpg"]}]}
  depth, neighbours and license are optional; depth is 16-bit, the distance in every direction
At most 8192×4096 pixels, HDR 4096×2048 (16 million).
""",
    obtain="""\
HM3D's panoramas: aihabitat.org/datasets/hm3d. Free ones to try: polyhaven.com/hdris (CC0). Say the
licence of your images as "license" in poses.json; it is in every record, else `unknown`.""",
    native_fps=FPS,
    target_fps=None,
    controls=CONTROLS,
    options=(
        *OPTIONS,
        Option(name="reach", default=5.0, low=0, high=8, help="metres to neighbours not listed"),
    ),
    every_frame=True,
    fit="stretch",
)

_NAME = re.compile(r"[^/\x00-\x1f@]{1,200}")
_EPISODES, _FRAMES = 8, 160  # of a panorama, for the plan


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Each folder's panoramas by name, in parts of about `target_bytes`. A poses.json is opened
    where there is more than that, to know which depth is of which image.

    Raises:
        UsageError: if there is no image.
    """
    found: dict[str, dict[str, int]] = {}
    root = path.rstrip("/")
    for pattern in (("*",), ("*", "*")):
        for uri, size in files.glob(root, *pattern):
            if IMAGE.fullmatch(files.name_of(uri)):
                found.setdefault(uri.rsplit("/", 1)[0], {})[files.name_of(uri)] = size
    if not found:
        raise UsageError(
            f"{path}: found no *.jpg, *.png, *.webp or *.hdr there or a folder deeper; give the"
            " folder of panoramas; `unisim sources panorama` shows it"
        )
    for folder, sizes in sorted(found.items()):
        scan = "" if folder == root else files.name_of(folder)
        if scan and (not _NAME.fullmatch(scan) or clean_text(scan) != scan):
            raise UsageError(f"{clean_text(folder)}: no name for a scan; rename it, without '@'")
        if sum(sizes.values()) > target_bytes:
            sizes = with_depth(folder, sizes)
        for part, (names, mine) in enumerate(ranges(sizes, target_bytes)):
            yield Unit(
                id=f"{scan or '.'}.{part:04d}",
                uri=folder,
                split=split_of(INFO.name, scan) if scan else None,
                cost=sum(sizes[name] for name in mine),
                episodes=_EPISODES * len(mine),
                frames=_FRAMES * len(mine),
                version=INFO.version,
                params={"scan": scan, "names": names},
            )


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """The episodes that begin at the unit's panoramas, in the order of their names.

    Raises:
        DataError: if there is a poses.json that cannot be read.
    """
    name = unit.params["scan"] or "scan"
    try:
        scan = Scan(unit.uri, unit.option(INFO, "reach"))
    except DataError as e:
        e.key = name
        raise
    errors = [(error.key, error) for error in scan.errors]
    for key, error in errors:
        error.key = f"{name}.{key}"
    tour = Tour(name, scan.panos, unit, INFO, scan.license)
    yield from tour.episodes(Range(*unit.params["names"]), [], errors)


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """A house with depth in an OpenGL, y-up poses.json, and loose images, one of them HDR.

    With `traps` also a mirrored pose, depth of zeros, an image that is listed but absent, one that
    is not listed, one that is not twice as wide as high, and one that is cut short.
    """
    return _panorama_fake.write(root / INFO.name, seed, traps=traps)
