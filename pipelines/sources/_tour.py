"""What panorama sources share: a scan of panoramas becomes episodes of camera motion.

- look: crops out of one panorama, smooth swings and R2R's steps of 30°;
- go: from one panorama to a connected one, both views facing along the motion;
- walk: over several connected ones, turns and moves interleaved, or along a given route.

A pair of panoramas is only a lesson where the second view shows enough that the first one showed
too: `ops.overlap` measures it, by depth where both have it, else by frustum.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pipelines.episode import Control, Episode, Frame, Option, SourceInfo, Unit
from pipelines.ops import between, camera_path, overlap, pose
from pipelines.ops.controls import euler
from pipelines.ops.panorama import Cube, Panorama, crop, cube_size
from pipelines.ops.view import View
from pipelines.sources._names import Range
from schemas import DataError
from schemas.controls import INDEX, SLOTS

FPS = 5.0  # a choice, as static scans have no clock
CONTROLS = (
    Control(name="pose: forward", slot="camera_dx", unit="m"),
    Control(name="pose: left", slot="camera_dy", unit="m"),
    Control(name="pose: up", slot="camera_dz", unit="m"),
    Control(name="pose: roll right", slot="camera_droll", unit="rad"),
    Control(name="pose: tilt down", slot="camera_dpitch", unit="rad"),
    Control(name="pose: turn left", slot="camera_dyaw", unit="rad"),
)
OPTIONS = (
    Option(name="height", default=192, low=8, high=2048, help="of a crop in pixels"),
    Option(name="width", default=320, low=8, high=2048, help="of a crop in pixels"),
    Option(name="fov", default=90, low=20, high=140, help="horizontal field of view in degrees"),
    Option(name="looks", default=2, low=0, high=100, help="smooth looks per panorama"),
    Option(name="steps", default=1, low=0, high=100, help="looks by steps of 30° per panorama"),
    Option(name="goes", default=1, low=0, high=1, help="0 for no moves from panorama to panorama"),
    Option(name="walks", default=1, low=0, high=100, help="walks from each panorama"),
    Option(
        name="min_overlap",
        default=0.3,
        low=0,
        high=1,
        help="share of a view that the one before must have shown too",
    ),
    Option(
        name="between",
        default=0,
        low=0,
        high=14,
        help="views rendered from depth on the way of a go; 0 for none",
    ),
    Option(name="max_hole", default=0.1, low=0, high=1, help="share of holes in such a view"),
    Option(name="seed", default=0, low=0, high=2**31, help="of looks and walks"),
)
_HOPS = 5  # of a walk
_FARTHEST = SLOTS[INDEX["camera_dx"]].high
_FRUSTUM_METRES = 3.0  # how far walls are taken to be where nothing measured it
_SMALL = 40  # pixels per radian of the views whose overlap is measured, as points are sparse
_KEPT = 24  # panoramas in memory: 6 MB each at 192×320


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pano:
    """One panorama.

    Attributes:
        id: within its scan.
        at: its pose, OpenCV camera-to-world, z up, metres.
        neighbours: ids that can be gone to; all are in the scan.
        image: decodes it. Raises DataError.
        cloud: world points float32 `[n, 3]` of what it sees; None without depth. Raises DataError.
        coloured: `cloud` at a finer stride with uint8 `[n, 3]` colours, for views in between.
    """

    id: str
    at: np.ndarray
    neighbours: tuple[str, ...]
    image: Callable[[], Panorama]
    cloud: Callable[[], np.ndarray] | None = None
    coloured: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def position(self) -> np.ndarray:
        return self.at[:3, 3]


class Route(NamedTuple):
    """A way that somebody described.

    Attributes:
        key: its id; panos: the ids along it; heading: where it looks at first, radians to the left
        of the world's x axis; texts: descriptions, an episode each.
    """

    key: str
    panos: tuple[str, ...]
    heading: float
    texts: tuple[str, ...]


class _Shot(NamedTuple):
    """A frame to be: a body pose, how it is seen, and the overlap with the shot before."""

    at: np.ndarray
    image: Callable[[], np.ndarray]
    text: str
    overlap: float | None = None


class _Hop(NamedTuple):
    """A pair that is a lesson: where the camera looks, and what it measured."""

    yaw: float
    overlap: float
    how: str


class Tour:
    """The episodes of one scan.

    Args:
        scan: its name.
        panos: all of its usable panoramas by id.
        unit, info: whose options hold.
        license: of its images, if it is not the source's.
    """

    def __init__(
        self, scan: str, panos: dict[str, Pano], unit: Unit, info: SourceInfo, license: str = ""
    ):
        self.scan, self.panos, self.license = scan, panos, license
        option = functools.partial(unit.option, info)
        self.option: Callable[[str], float] = option
        self.view = View(
            height=int(option("height")),
            width=int(option("width")),
            fov=math.radians(option("fov")),
        )
        columns = round(min(2 * _SMALL * math.tan(self.view.fov / 2), 4 * _SMALL))
        rows = max(1, round(columns * self.view.height / self.view.width))
        self.small = View(height=rows, width=columns, fov=self.view.fov)
        # without `self` in them the tour is no cycle, which would keep hundreds of MB for a while
        size = cube_size(self.view)
        self._cube: Callable[[str], Cube] = _kept(
            lambda name: panos[name].image().cube(size), _KEPT
        )
        self._cloud = _kept(lambda name: panos[name].cloud(), _KEPT)  # type: ignore[misc]
        self._coloured = _kept(lambda name: panos[name].coloured(), 2)  # type: ignore[misc]
        self._measured: dict[tuple[str, str], _Hop | DataError] = {}

    def episodes(
        self, names: Range, routes: Iterable[Route], errors: Iterable[tuple[str, DataError]]
    ) -> Iterator[Episode | DataError]:
        """Those that begin at the panoramas `names`, one panorama after the other by name.

        Args:
            routes: of the whole scan.
            errors: what was wrong with the scan, by the panorama that it cost; "" if by none.
        """
        starts: dict[str, list[Route]] = collections.defaultdict(list)
        for route in routes:
            starts[route.panos[0]].append(route)
        lost: dict[str, list[DataError]] = collections.defaultdict(list)
        for name, error in errors:
            lost[name].append(error)
        for name in sorted(self.panos.keys() | starts.keys() | lost.keys()):
            if name in names:
                yield from lost[name]
                if name in self.panos:
                    yield from self._tours(name)
                for route in starts[name]:
                    yield from self._described(route)

    def _tours(self, name: str) -> Iterator[Episode | DataError]:
        for kind, count, make in (
            ("look", "looks", camera_path.smooth_look),
            ("steps", "steps", camera_path.stepped_look),
        ):
            for n in range(int(self.option(count))):
                yield self._try(f"{self.scan}.{kind}.{name}.{n}", self._look, name, make)
        for other in self._of(name).neighbours if self.option("goes") else ():
            yield self._try(f"{self.scan}.go.{name}.{other}", self._go, name, other)
        for n in range(int(self.option("walks"))):
            key = f"{self.scan}.walk.{name}.{n}"
            way = self._stroll(name, self._rng(key))
            if len(way) > 2:  # else it is a go
                yield self._try(key, self._walk, way, None, "")

    def _described(self, route: Route) -> Iterator[Episode | DataError]:
        for n, text in enumerate(route.texts):
            key = f"{self.scan}.route.{route.key}.{n}"
            yield self._try(key, self._walk, route.panos, route.heading, text)

    def _try(self, key: str, make: Callable[..., Episode], *args: Any) -> Episode | DataError:
        try:
            return make(key, *args)
        except DataError as e:
            return _renamed(e, key)

    def _of(self, name: str) -> Pano:
        if name not in self.panos:
            raise DataError(f"panorama {name} is not to be had", stage="read", counts=False)
        return self.panos[name]

    def _rng(self, key: str) -> np.random.Generator:
        seeded = f"{int(self.option('seed'))}/{key}".encode()
        return np.random.default_rng(
            int.from_bytes(hashlib.blake2b(seeded, digest_size=16).digest(), "big")
        )

    def _look(self, key: str, name: str, make: Callable[..., camera_path.Path]) -> Episode:
        path = make(self._of(name).position, self._rng(key))
        shots = self._shots(path, name)
        self._check(min(shot.overlap or 0 for shot in shots[1:]), f"turns in {name}", "frustum")
        return self._episode(key, shots, f"panorama {name}")

    def _go(self, key: str, start: str, end: str) -> Episode:
        hop = self._hop(start, end)
        first = pose.facing(self._of(start).position, hop.yaw)
        whole = camera_path.straight(first, self._of(end).position)
        shots = [self._shot(first, start, whole.text)]
        inside = self._between(first, start, end, whole.text)
        known = None if inside else hop.overlap
        shots += [*inside, self._shot(whole.poses[-1], end, whole.text, known)]
        return self._episode(
            key, shots, f"panoramas {start} to {end}, overlap {hop.overlap:.2f} by {hop.how}"
        )

    def _between(self, first: np.ndarray, start: str, end: str, text: str) -> list[_Shot]:
        """Views rendered from both panoramas' points, but for those with too many holes."""
        count = int(self.option("between"))
        if not count or not all(self._of(name).coloured for name in (start, end)):
            return []
        clouds = [self._coloured(name) for name in (start, end)]
        shots = []
        for at in camera_path.straight(first, self._of(end).position, count + 1).poses[:-1]:
            image, holes = between.render(clouds, _opencv(at), self.view)
            if holes <= self.option("max_hole"):
                shots.append(_Shot(at, functools.partial(np.copy, image), text))
        return shots

    def _stroll(self, name: str, rng: np.random.Generator) -> tuple[str, ...]:
        """Panoramas along a random walk over pairs that are lessons, none taken back at once."""
        way = [name]
        while len(way) <= _HOPS:
            here = self._of(way[-1]).neighbours
            for other in rng.permutation(np.array(here, dtype=object)):
                if other not in way[-2:] and self._is_lesson(way[-1], other):
                    way.append(other)
                    break
            else:
                break
        return tuple(way)

    def _is_lesson(self, start: str, end: str) -> bool:
        return isinstance(self._pair(start, end), _Hop)

    def _hop(self, start: str, end: str) -> _Hop:
        found = self._pair(start, end)
        if isinstance(found, DataError):
            raise _renamed(found, "")
        return found

    def _walk(self, key: str, way: tuple[str, ...], yaw: float | None, text: str) -> Episode:
        hops = [self._hop(a, b) for a, b in itertools.pairwise(way)]
        yaw = hops[0].yaw if yaw is None else yaw
        start = at = pose.facing(self._of(way[0]).position, yaw)
        segments, seen = [], []
        for here, there, hop in zip(way, way[1:], hops, strict=False):
            if turn := camera_path.turn_to(at, hop.yaw):
                segments.append(turn)
                seen += [(here, None)] * len(turn.poses)
                at = turn.poses[-1]
            segments.append(camera_path.straight(at, self._of(there).position))
            seen.append((there, hop.overlap))
            at = segments[-1].poses[-1]
        shots = self._shots(camera_path.path(start, segments), way[0], seen)
        shots = [shot._replace(text=text) for shot in shots] if text else shots
        measured = " ".join(f"{hop.overlap:.2f}" for hop in hops)
        how = "/".join(sorted({hop.how for hop in hops}))
        where = f"panoramas {' > '.join(way)}, overlap {measured} by {how}"
        return self._episode(key, shots, where)

    def _shots(
        self, path: camera_path.Path, name: str, seen: list[tuple[str, float | None]] | None = None
    ) -> list[_Shot]:
        """A path's frames: from one panorama, or from that of each pose with the overlap that was
        measured; else turns, whose overlap does not depend on depth."""
        shots = [self._shot(path.start, name, path.segments[0].text)]
        poses = [(at, s.text) for s in path.segments for at in s.poses]
        alone: list[tuple[str, float | None]] = [(name, None)] * len(poses)
        for (at, text), (where, known) in zip(poses, seen or alone, strict=True):
            if known is None:
                known = overlap.frustum_overlap(_opencv(shots[-1].at), _opencv(at), self.small, 1.0)
            shots.append(self._shot(at, where, text, known))
        return shots

    def _shot(self, at: np.ndarray, name: str, text: str, known: float | None = None) -> _Shot:
        return _Shot(at, functools.partial(self._crop, name, at), text, known)

    def _crop(self, name: str, at: np.ndarray) -> np.ndarray:
        turn = pose.relative(self._of(name).at, _opencv(at))
        return crop(self._cube(name), turn[:3, :3], self.view)

    def _pair(self, start: str, end: str) -> _Hop | DataError:
        if (start, end) not in self._measured:
            self._measured[start, end] = self._measure(start, end)
        return self._measured[start, end]

    def _measure(self, start: str, end: str) -> _Hop | DataError:
        """The pair, if it is a lesson; what it lacks is a declared loss."""
        try:
            a, b = self._of(start), self._of(end)
            distance = float(np.linalg.norm(b.position - a.position))
            if not 0.01 <= distance <= _FARTHEST:
                reason = f"{distance:.2f} m from {start} to {end}, wanted 0.01 to {_FARTHEST:g}"
                raise DataError(reason, stage="overlap", counts=False)
            yaw = camera_path.towards(a.position, b.position)
            hop = _Hop(yaw, *self._shared(a, b, yaw))
            self._check(hop.overlap, f"{start} to {end}", hop.how)
        except DataError as e:
            return _renamed(e, "")  # this one's traceback holds the points
        return hop

    def _shared(self, a: Pano, b: Pano, yaw: float) -> tuple[float, str]:
        """How much of the view at b the one at a showed too, and how that was measured."""
        at_a, at_b = (_opencv(pose.facing(x.position, yaw)) for x in (a, b))
        if not (a.cloud and b.cloud):
            return overlap.frustum_overlap(at_a, at_b, self.small, _FRUSTUM_METRES), "frustum"
        clouds = self._cloud(a.id), self._cloud(b.id)
        return overlap.visible_overlap(clouds[0], at_a, clouds[1], at_b, self.small), "depth"

    def _episode(self, key: str, shots: list[_Shot], where: str) -> Episode:
        _, pitch, yaw = np.degrees(euler(shots[0].at[:3, :3]))
        return Episode(
            id=key,
            frames=_frames(shots),
            controls=CONTROLS,
            source_range=f"{where}, from heading {yaw:.4f}° tilt {pitch:.4f}°",
            license=self.license,
        )

    def _check(self, shared: float, what: str, how: str) -> None:
        if shared < self.option("min_overlap"):
            reason = f"{what}: overlap {shared:.2f} by {how}, wanted {self.option('min_overlap'):g}"
            raise DataError(reason, stage="overlap", counts=False)


def _opencv(at: np.ndarray) -> np.ndarray:
    return pose.change_camera(at, "body", "opencv")


def _frames(shots: list[_Shot]) -> Iterator[Frame]:
    before = shots[0].at
    for i, shot in enumerate(shots):
        yield Frame(
            time=i / FPS,
            image=shot.image,
            control=pose.delta(pose.relative(before, shot.at)) if i else np.zeros(len(CONTROLS)),
            text=shot.text,
            overlap=shot.overlap,
        )
        before = shot.at


def _renamed(error: DataError, key: str) -> DataError:
    """The same reason as a loss of its own: a pair that was measured may be met again."""
    return DataError(
        error.reason,
        stage=error.stage,
        key=key,
        uri=error.uri,
        where=error.where,
        counts=error.counts,
    )


def _kept(load: Callable[[str], Any], most: int) -> Callable[[str], Any]:
    """The function with its latest results kept; its errors are not."""
    found: collections.OrderedDict[str, Any] = collections.OrderedDict()

    def get(name: str) -> Any:
        if name not in found:
            found[name] = load(name)
        found.move_to_end(name)
        if len(found) > most:
            found.popitem(last=False)
        return found[name]

    return get
