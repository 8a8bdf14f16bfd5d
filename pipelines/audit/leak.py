"""Episodes that are in two splits: found by a perceptual hash, confirmed by their pictures.

The hash of a frame is 64 bits: whether each of the lowest frequencies of its cosine transform (8 by
8, without the mean) is above their median (pHash, Zauner 2010). An episode has three: of its first,
its middle and its last frame. Episodes whose 192 bits differ in a few places share at least one of
twelve pieces of 16 bits nearly always, so pairs are looked for among those that share one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from pipelines.audit.check import Where, check
from pipelines.audit.limits import Limits

_SIDE, _LOW = 32, 8
_PIECES = 12  # of 16 bits
_MOST_PAIRS = 200_000
_CONTRAST = 4.0  # in grey level, under which a picture is too flat to be known again


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """What an episode looks like, and where it is.

    Attributes:
        dataset, episode_id, split: its name.
        shard, begin, records: its rows in its file.
        frames: of all of them.
        hashes: the three, 16 hex digits each.
    """

    dataset: str
    episode_id: str
    split: str
    shard: int
    begin: int
    records: int
    frames: int
    hashes: tuple[str, str, str]


def phash(gray: np.ndarray) -> str:
    """The hash of a gray picture, uint8 `[h, w]`, as 16 hex digits; empty if it is flat."""
    if gray.std() < _CONTRAST:
        return ""
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_LOW, :_LOW].ravel()
    low[0] = np.median(low[1:])
    return np.packbits(low > np.median(low[1:])).tobytes().hex()


class Looks:
    """Gathers the looks of a file's episodes, record by record."""

    def __init__(self):
        self.found: list[Look] = []
        self._hashes: list[str] = []
        self._rows: list[dict] = []
        self._frames = 0

    def add(self, row: dict, gray: np.ndarray | None) -> None:
        """The next record; `gray` are its frames."""
        if row["is_first"]:
            self._hashes, self._rows, self._frames = [], [], 0
        if gray is None or (self._rows and row["episode_id"] != self._rows[0]["episode_id"]):
            return
        self._rows.append(row)
        self._hashes.append(phash(gray[0]))
        self._frames += len(gray)
        if row["is_last"] and self._rows[0]["is_first"]:
            self._end(row, gray[-1])

    def _end(self, row: dict, last: np.ndarray) -> None:
        hashes = (self._hashes[0], self._hashes[len(self._hashes) // 2], phash(last))
        if all(hashes):
            look = Look(
                dataset=row["dataset"],
                episode_id=row["episode_id"],
                split=row["split"],
                shard=row["shard"],
                begin=self._rows[0]["position"],
                records=len(self._rows),
                frames=self._frames,
                hashes=hashes,
            )
            self.found.append(look)
        self._hashes, self._rows, self._frames = [], [], 0


Pictures = Callable[[Look], Sequence[np.ndarray] | None]
"""Gives the three frames of an episode in gray, uint8 `[h, w]` each; None if they cannot be had."""


@check("split-leak", "content")
def leaks(looks: Sequence[Look], pictures: Pictures, limits: Limits) -> Iterator[tuple[Where, str]]:
    """No episode is in two splits, as it is or nearly so."""
    seen = set()
    for a, b in _pairs(looks, int(limits.leak["bits"])):
        if (b.dataset, b.episode_id) in seen or not 0.8 <= a.frames / b.frames <= 1.25:
            continue
        level = _level(pictures(a), pictures(b))
        if level <= limits.leak["level"]:
            seen.add((b.dataset, b.episode_id))
            where = {"dataset": b.dataset, "episode_id": b.episode_id, "step": 0}
            other = f"{a.dataset}/{a.episode_id} of split {a.split}"
            yield where, f"split {b.split}, looks like {other} ({level:.1f} grey levels apart)"


def _level(a: Sequence[np.ndarray] | None, b: Sequence[np.ndarray] | None) -> float:
    if a is None or b is None:
        return np.inf
    return max(float(cv2.absdiff(x, y).mean()) for x, y in zip(a, b, strict=True))


def _pairs(looks: Sequence[Look], bits: int) -> Iterator[tuple[Look, Look]]:
    """Pairs in two splits whose hashes differ in no more than so many bits: the one in "train", or
    the earlier, first."""
    if len({look.split for look in looks}) < 2:
        return
    order = sorted(looks, key=lambda look: (look.split != "train", look.split))
    raw = np.array([list(bytes.fromhex("".join(look.hashes))) for look in order], np.uint8)
    pieces = raw.view("<u2").reshape(len(order), _PIECES)
    splits = np.array([look.split for look in order])
    left = _MOST_PAIRS
    done: set[tuple[int, int]] = set()
    for piece in range(_PIECES):
        for group in _groups(pieces[:, piece], splits):
            for i in group:
                near = np.unpackbits(raw[group] ^ raw[i], axis=1).sum(1) <= bits
                for j in group[near & (group > i) & (splits[group] != splits[i])].tolist():
                    if (pair := (int(i), j)) not in done and left:
                        left -= 1
                        done.add(pair)
                        yield order[pair[0]], order[pair[1]]


def _groups(values: np.ndarray, splits: np.ndarray) -> Iterator[np.ndarray]:
    """Sorted indices of equal values, where they are of more than one split."""
    order = np.argsort(values, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(values[order])) + 1):
        if len(group) > 1 and len(set(splits[group].tolist())) > 1:
            yield np.sort(group)
