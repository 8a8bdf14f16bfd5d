"""The rows of `make bench` on `pipelines.ops.panorama`: crops per second, and how good they are."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from pipelines.ops.panorama import Equirectangular, Panorama, Skybox, crop
from pipelines.ops.view import View
from tests.bench import picture
from tests.bench.timing import Peer, Row, interleaved, progress, run_alone, status_mb
from tests.samples import ROOT as SAMPLES

Views = list[tuple[int, int]]  # degrees to the right, degrees upwards

VIEW = View(height=192, width=320, fov=math.radians(90))
AROUND: Views = [(yaw, pitch) for pitch in (-30, 0, 30) for yaw in range(0, 360, 30)]
POLES: Views = [(yaw, pitch) for pitch in (-80, 80) for yaw in range(0, 360, 60)]
HEIGHT, FACE = 2048, 1024
ROUNDS = 7
LIMIT_MB = 600


class Side(Protocol):
    """One who crops a panorama."""

    def seconds(self, views: Views, *, fresh: bool) -> float:
        """Of cropping it once per view, with what is done once per panorama where `fresh`."""
        ...

    def images(self, views: Views) -> np.ndarray:
        """uint8 `[n, height, width, 3]`."""
        ...


class Ours:
    def __init__(self, make: Callable[[], Panorama]):
        self._make = make
        self._ready = make()

    def seconds(self, views: Views, *, fresh: bool) -> float:
        turns = [picture.turn(*view) for view in views]
        begin = time.perf_counter()
        panorama = self._make() if fresh else self._ready
        for pose in turns:
            crop(panorama, pose, VIEW)
        return time.perf_counter() - begin

    def images(self, views: Views) -> np.ndarray:
        return np.stack([crop(self._ready, picture.turn(*view), VIEW) for view in views])


class Naive:
    """What anyone would write: a map per crop, and one bilinear look-up at full resolution."""

    def __init__(self, image: np.ndarray):
        self._image = image

    def seconds(self, views: Views, *, fresh: bool) -> float:
        begin = time.perf_counter()
        for view in views:
            self._crop(picture.turn(*view))
        return time.perf_counter() - begin

    def images(self, views: Views) -> np.ndarray:
        return np.stack([self._crop(picture.turn(*view)) for view in views])

    def _crop(self, pose: np.ndarray) -> np.ndarray:
        h, w = self._image.shape[:2]
        x, y, z = np.moveaxis(VIEW.rays() @ pose.T, -1, 0)
        u = (np.arctan2(x, z) / (2 * math.pi) + 0.5) * w - 0.5
        v = (np.arctan2(y, np.hypot(x, z)) / math.pi + 0.5) * h - 0.5
        maps = u.astype(np.float32), v.astype(np.float32)
        return cv2.remap(self._image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


class Remote:
    """A library in the peers' process."""

    def __init__(self, peer: Peer, library: str, image: Path):
        self._peer = peer
        self._out = image.with_suffix(".out.npy")
        self._request = {
            "library": library,
            "image": str(image),
            "height": VIEW.height,
            "width": VIEW.width,
            "fov": math.degrees(VIEW.fov),
        }

    def seconds(self, views: Views, *, fresh: bool) -> float:
        return self._peer.ask(**self._request, views=views, fresh=fresh, out=None)["seconds"]

    def images(self, views: Views) -> np.ndarray:
        self._peer.ask(**self._request, views=views, fresh=False, out=str(self._out))
        return np.load(self._out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A panorama, all who crop it ("ours" first), and what its crops should be."""

    name: str
    sides: dict[str, Side]
    image: np.ndarray
    locate: picture.Locate

    def quality(self, views: Views) -> dict[str, float]:
        """PSNR of each side, the mean over the views.

        Raises:
            RuntimeError: if a side looks elsewhere.
        """
        progress(f"{self.name}: {len(views)} reference views")
        turns = [picture.turn(*view) for view in views]
        wanted = [picture.reference(self.image, self.locate, pose, VIEW) for pose in turns]
        found = {}
        for name, side in self.sides.items():
            images = side.images(views)
            pairs = list(zip(images, wanted, strict=True))
            worst = min(_likeness(*pair) for pair in pairs)
            if worst < 0.9:
                raise RuntimeError(f"{name} looks elsewhere: correlation {worst:.2f}, wanted 0.9")
            found[name] = float(np.mean([picture.psnr(*pair) for pair in pairs]))
        return found

    def rows(self, views: Views, title: str, *, fresh: bool = False) -> Iterator[Row]:
        """A row against each peer; with `fresh`, more in which every panorama is a new one."""
        quality = self.quality(views)
        progress(f"{self.name}: {ROUNDS} rounds of {len(views)} crops each")
        cases = {
            (name, new): functools.partial(side.seconds, views, fresh=new)
            for new in ((False, True) if fresh else (False,))
            for name, side in self.sides.items()
        }
        taken = interleaved(ROUNDS, cases)
        for name, new in cases:
            if name == "ours":
                continue
            label = f"{self.name}, {f'new for {len(views)} views' if new else title}"
            row = _row(label, name, len(views), taken["ours", new], taken[name, new])
            ours, peer = (f"{quality[side]:.1f} dB" for side in ("ours", name))
            yield row._replace(quality=ours, peer_quality=peer)


def rows(peer: Peer, folder: Path) -> Iterator[Row]:
    """All rows. The panoramas are laid into the folder for the peers."""
    cv2.setNumThreads(1)
    progress("painting the panoramas")
    image = picture.equirectangular(HEIGHT)
    path = _saved(folder / "equirectangular.npy", image)
    whole = _equirectangular(f"equirectangular {2 * HEIGHT}x{HEIGHT}", image, path, peer)
    yield from whole.rows(AROUND, "prepared", fresh=True)
    yield from whole.rows(POLES, "poles")
    yield _again(whole)
    yield from _skybox(peer, folder).rows(AROUND, "prepared", fresh=True)
    real = _real()
    if real is None:
        progress("no real panorama in ../shared/data: left out")
    else:
        path = _saved(folder / "real.npy", real)
        title = f"lythwood_room {real.shape[1]}x{real.shape[0]}"
        yield from _equirectangular(title, real, path, peer).rows(AROUND, "prepared")
    yield from _memory(folder / "equirectangular.npy")


def peak(path: str) -> dict[str, float]:
    """Crops a panorama all around, in a process that has done nothing else.

    Returns:
        How much memory it had before, and at most, in MB.
    """
    before = status_mb("VmRSS")
    panorama = Equirectangular(np.load(path))
    for view in AROUND:
        crop(panorama, picture.turn(*view), VIEW)
    return {"before": before, "peak": status_mb("VmHWM")}


def _equirectangular(name: str, image: np.ndarray, path: Path, peer: Peer) -> Subject:
    return Subject(
        name=name,
        sides={
            "ours": Ours(lambda: Equirectangular(image)),
            "py360convert": Remote(peer, "py360convert", path),
            "pyequilib": Remote(peer, "pyequilib", path),
            "cv2.remap": Naive(image),
        },
        image=picture.with_border(image),
        locate=picture.in_equirectangular(len(image)),
    )


def _skybox(peer: Peer, folder: Path) -> Subject:
    faces = picture.faces(FACE)
    inner = np.ascontiguousarray(faces[:, 1:-1, 1:-1])
    path = _saved(folder / "skybox.npy", inner)
    return Subject(
        name=f"skybox {FACE}x{FACE}",
        sides={
            "ours": Ours(lambda: Skybox(inner)),
            "py360convert": Remote(peer, "py360convert skybox", path),
        },
        image=faces.reshape(-1, FACE + 2, 3),
        locate=picture.in_faces(FACE),
    )


def _again(subject: Subject) -> Row:
    """One view again and again: py360convert keeps the maps of the last 8."""
    views = [AROUND[17]] * len(AROUND)
    ours, peer = (
        functools.partial(subject.sides[name].seconds, views, fresh=False)
        for name in ("ours", "py360convert")
    )
    taken = interleaved(ROUNDS, {"ours": ours, "peer": peer})
    return _row(
        f"{subject.name}, one view", "py360convert", len(views), taken["ours"], taken["peer"]
    )


def _memory(path: Path) -> Iterator[Row]:
    progress("memory")
    found = run_alone(peak, path)
    for what, size in (
        ("peak memory of a process, 36 views of one", found["peak"]),
        ("  of it above the imported modules", found["peak"] - found["before"]),
    ):
        yield Row(what, "(limit)", f"{size:.0f} MB", f"{LIMIT_MB} MB", f"{LIMIT_MB / size:.1f}")


def _row(name: str, against: str, crops: int, ours: float, peer: float) -> Row:
    speeds = [f"{crops / seconds:.0f}/s" for seconds in (ours, peer)]
    return Row(name, against, speeds[0], speeds[1], f"{peer / ours:.1f}")


def _likeness(image: np.ndarray, wanted: np.ndarray) -> float:
    """Correlation of two images at an eighth of their size."""
    size = (VIEW.width // 8, VIEW.height // 8)
    first, second = (
        cv2.resize(a.astype(np.float32), size, interpolation=cv2.INTER_AREA).ravel()
        for a in (image, wanted)
    )
    return float(np.corrcoef(first, second)[0, 1])


def _real() -> np.ndarray | None:
    """A real room, its light made 8 bits in the simplest way."""
    path = SAMPLES / "panorama/lythwood_room_1k.hdr"
    if not path.exists():
        return None
    light = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert light is not None, path
    scaled = np.clip(light[..., ::-1] / np.percentile(light, 95), 0, 1)
    return (255 * scaled ** (1 / 2.2) + 0.5).astype(np.uint8)


def _saved(path: Path, image: np.ndarray) -> Path:
    np.save(path, image)
    return path
