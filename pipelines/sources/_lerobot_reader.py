"""The episodes of a LeRobotDataset: rows of parquet files, aligned with each camera's frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pipelines import files
from pipelines.episode import Control, Episode, Frame
from pipelines.ops import video
from pipelines.ops.images import EncodedImage
from pipelines.sources import _lerobot_meta as meta
from pipelines.sources import _lerobot_parquet as parquet
from schemas import DataError

_IMAGES_AT_ONCE = 16

Image = Callable[[], np.ndarray]


class Rows(NamedTuple):
    """An episode's rows, aligned with its frames.

    Attributes:
        uri: the parquet file.
        start: the first one's place in it.
        control: float64 `[n, controls]`, what led to each frame.
        texts: n instructions, what led to each frame.
    """

    uri: str
    start: int
    control: np.ndarray
    texts: list[str]


class Reader:
    """Reads episodes of a dataset; it remembers where they are in the last parquet file."""

    def __init__(self, dataset: meta.Dataset, table: tuple[Control, ...], tasks: dict[int, str]):
        self.dataset, self.table, self.tasks = dataset, table, tasks
        self.last: tuple[str, np.ndarray] = ("", np.zeros(0, np.int64))
        self.views = {key: re.sub(r"^observation\.(images\.)?", "", key) for key in dataset.cameras}
        if len(set(self.views.values())) < len(self.views):
            self.views = {key: key for key in dataset.cameras}

    def rows(self, entry: dict[str, Any]) -> Rows:
        """The episode's rows. Raises DataError if they are not what the metadata promise."""
        uri = files.join(self.dataset.root, self.dataset.data(*entry["data"]))
        if self.last[0] != uri:
            self.last = (uri, _column(uri, "episode_index"))
        found = np.flatnonzero(self.last[1] == entry["index"])
        if len(found) != entry["rows"]:
            reason = f"{len(found)} rows of the episode, wanted {entry['rows']}"
            raise DataError(f"{files.name_of(uri)}: {reason}", uri=uri)
        start, end = int(found[0]), int(found[-1]) + 1
        if end - start != len(found):
            raise DataError(f"{files.name_of(uri)}: other episodes between its rows", uri=uri)
        try:
            return self._read(uri, start, end)
        except DataError as e:
            e.uri, e.where = uri, f"rows {start}-{end}"
            raise

    def _read(self, uri: str, start: int, end: int) -> Rows:
        widths = {"action": len(self.dataset.action), "observation.state": len(self.dataset.state)}
        widths = {name: n for name, n in widths.items() if n and self.table}
        numbers: dict[str, list[np.ndarray]] = {
            name: [np.zeros((0, widths[name]))] for name in widths
        }
        order: list[np.ndarray] = []
        tasks: list[int] = []
        for batch in parquet.batches(
            uri, ["frame_index", "timestamp", "task_index", *widths], start, end
        ):
            for name, width in widths.items():
                numbers[name].append(parquet.vectors(batch, name, width))
            counted = parquet.integers(batch, "frame_index") / self.dataset.fps
            order.append(np.stack([counted, parquet.vectors(batch, "timestamp", 1)[:, 0]]))
            tasks += parquet.integers(batch, "task_index").tolist()
        if len(tasks) != end - start:
            raise DataError(f"the file ends after {len(tasks)} of {end - start} rows")
        due = np.arange(len(tasks)) / self.dataset.fps
        # NaN is not within half a frame of anything
        if not (np.abs(np.concatenate(order, 1) - due) <= 0.5 / self.dataset.fps).all():
            raise DataError("the rows are not in order of time, a frame apart")
        absent = sorted(set(tasks) - set(self.tasks))
        if absent:
            raise DataError(f"no task {absent[0]} in meta/tasks", stage="annotate")
        texts = [self.tasks[task] for task in (tasks[0], *tasks[:-1])]
        control = np.zeros((len(tasks), 0))
        if self.table:
            actions, *states = (np.concatenate(parts) for parts in numbers.values())
            control = self._control(actions, states[0][0] if states else None)
        return Rows(uri, start, control, texts)

    def _control(self, actions: np.ndarray, state: np.ndarray | None) -> np.ndarray:
        """`[n, controls]`: the action of the row before. A position begins where the robot is, or
        where it is first sent if the state has no value of that name; a motion with zero.

        Args:
            actions: float `[n, values]`.
            state: float `[values]`, at the first row.
        """
        columns = [self.dataset.action.index(control.name) for control in self.table]
        known = {} if state is None else dict(zip(self.dataset.state, state, strict=True))
        result = np.zeros((len(actions), len(columns)))
        result[1:] = actions[:-1, columns]
        for i, control in enumerate(self.table):
            if control.absolute:
                result[0, i] = known.get(control.name, actions[0, columns[i]])
        return result

    def view(self, key: str, camera: str, entry: dict[str, Any], rows: Rows) -> Episode:
        """The episode as one camera saw it."""
        if self.dataset.cameras[camera] == "image":
            end = rows.start + len(rows.texts)
            uri, where = rows.uri, f"rows {rows.start}-{end}"
            images = self._stored(uri, camera, rows.start, end)
        else:
            chunk, number, start, end = entry["videos"][camera]
            uri = files.join(self.dataset.root, self.dataset.video(camera, chunk, number))
            where = f"{start:g}-{end:g} s" if end is not None else "whole file"
            images = self._filmed(uri, start, end)
        return Episode(
            id=key,
            view=self.views[camera],
            frames=self._frames(images, rows, uri),
            controls=self.table,
            source_uri=uri,
            source_range=where,
            license=self.dataset.license,
            fps=self.dataset.fps,
        )

    def _frames(self, images: Iterator[Image], rows: Rows, uri: str) -> Iterator[Frame]:
        """Frames and rows side by side, which must be equally many."""
        found, n = 0, len(rows.texts)
        for image in images:
            if found == n:
                raise DataError(f"{files.name_of(uri)}: more frames than the {n} rows", uri=uri)
            yield Frame(
                time=found / self.dataset.fps,
                image=image,
                control=rows.control[found] if self.table else None,
                text=rows.texts[found],
            )
            found += 1
        if found < n:
            raise DataError(f"{files.name_of(uri)}: {found} frames for {n} rows", uri=uri)

    def _filmed(self, uri: str, start: float, end: float | None) -> Iterator[Image]:
        half = 0.5 / self.dataset.fps
        try:
            with files.open_read(uri) as file:
                shots = video.frames(file, start - half, None if end is None else end - half)
                for i, shot in enumerate(shots):
                    wanted = start + i / self.dataset.fps
                    if abs(shot.time - wanted) > half:
                        raise DataError(
                            f"{files.name_of(uri)}: frame {i} of the episode is at"
                            f" {shot.time:.3f} s, wanted {wanted:.3f} s",
                            uri=uri,
                        )
                    yield shot.image
        except FileNotFoundError as e:
            raise DataError(f"{files.name_of(uri)} is missing", uri=uri) from e

    def _stored(self, uri: str, camera: str, start: int, end: int) -> Iterator[Image]:
        for batch in parquet.batches(uri, [camera], start, end, _IMAGES_AT_ONCE):
            for data in parquet.blobs(batch, camera):
                yield EncodedImage(data)


def _column(uri: str, name: str) -> np.ndarray:
    """A whole column of integers, int64 `[n]`."""
    parts = [parquet.integers(batch, name) for batch in parquet.batches(uri, [name])]
    return np.concatenate([np.zeros(0, np.int64), *parts])
