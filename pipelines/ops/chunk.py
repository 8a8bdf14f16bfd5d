"""Cutting an episode into chunks: at most 16 frames that share one action text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipelines.ops.unify import Step
from schemas import MAX_FRAMES


def chunks(frames: Iterable[Step]) -> Iterator[tuple[list[Step], bool]]:
    """Runs of up to `MAX_FRAMES` frames with one text, each with whether it is the last.

    Holds two chunks of undecoded frames at most.
    """
    ready: list[Step] = []
    filling: list[Step] = []
    for frame in frames:
        if filling and (len(filling) == MAX_FRAMES or frame.text != filling[-1].text):
            if ready:
                yield ready, False
            ready, filling = filling, []
        filling.append(frame)
    if ready:
        yield ready, False
    if filling:
        yield filling, True
