"""An episode -> the rows of the table: unify, resample, act, chunk, resize, validate, encode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pipelines.episode import Episode, Fit, Frame, Shrinkable, SourceInfo, Unit, split_of
from pipelines.ops.action_text import controls_text
from pipelines.ops.chunk import chunks
from pipelines.ops.controls import compose
from pipelines.ops.images import encode_jpeg, resize_each, shrink_to
from pipelines.ops.labels import clean_text
from pipelines.ops.resample import resample
from pipelines.ops.unify import Step, mask_of_controls, unify
from pipelines.plan import Dataset, relative_uri
from pipelines.stages import Stages
from schemas import Chunk, Tier, controls, discretise, encode, text_key
from schemas.validate import check


class Row(NamedTuple):
    """A chunk ready to be written: without its frames, its wire form by tier, and int `[t, S]`, how
    many controls were clipped on the way to each frame."""

    chunk: Chunk
    wire: dict[Tier, bytes]
    clipped: np.ndarray


def name_of(episode: Episode) -> str:
    """The episode's id in the table: with "@view" where several cameras saw it."""
    return f"{episode.id}@{episode.view}" if episode.view else episode.id


def rows(
    episode: Episode,
    unit: Unit,
    info: SourceInfo,
    dataset: Dataset,
    tiers: tuple[Tier, ...],
    prefix_dataset: bool,
    stages: Stages | None = None,
) -> Iterator[Row]:
    """The episode's chunks, validated and encoded at every tier. Frames are decoded once.

    Args:
        stages: gets the time that each stage takes.

    Raises:
        DataError: for anything in the episode that cannot be used, or a rule that it breaks.
    """
    base = _passport(episode, unit, info, dataset)
    stages = stages or Stages()
    frames_read = stages.reading(_cleaned(episode.frames))
    groups = chunks(resample(unify(frames_read, episode.controls), dataset.fps))
    mask = base.control_mask
    for step, (frames, is_last) in enumerate(groups):
        values = np.stack([frame.control for frame in frames])
        text = frames[0].text or controls_text(compose(values), mask)
        text = f"{dataset.name}: {text}" if prefix_dataset else text
        limited, outside = controls.clip(values)
        chunk = dataclasses.replace(
            base,
            step=step,
            times=np.array([frame.time for frame in frames], np.float32),
            text=text,
            text_key=text_key(text),
            controls=limited,
            control_bins=discretise(limited, mask),
            overlap=np.array([frame.overlap for frame in frames], np.float32),  # None becomes NaN
            is_first=step == 0,
            is_last=is_last,
        )
        clipped = outside + np.stack([frame.clipped for frame in frames])
        yield Row(chunk, _wire(chunk, frames, tiers, info.fit, stages), clipped)


def _passport(episode: Episode, unit: Unit, info: SourceInfo, dataset: Dataset) -> Chunk:
    """What all chunks of the episode share."""
    native = info.native_fps if episode.fps is None else episode.fps
    rates = [rate for rate in (native, dataset.fps) if rate is not None]
    uri = episode.source_uri
    return Chunk(
        dataset=dataset.name,
        episode_id=name_of(episode),
        step=0,
        split=unit.split or split_of(dataset.name, episode.id),
        frames=(),
        times=np.zeros(0, np.float32),
        fps=min(rates, default=0.0),
        text="",
        text_key=b"",
        controls=np.zeros((0, controls.NUM_SLOTS), np.float32),
        control_bins=np.zeros((0, controls.NUM_SLOTS), np.int32),
        control_mask=mask_of_controls(episode.controls),
        overlap=np.zeros(0, np.float32),
        is_first=False,
        is_last=False,
        source_uri=relative_uri(uri, dataset.root) if uri else unit.uri,
        source_range=episode.source_range or "whole file",
        source_version=dataset.version,
        license=episode.license or info.license,
        recipe=dataset.recipe,
    )


def _cleaned(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames with their text's white space and control characters put right, before they are
    grouped by it."""
    for frame in frames:
        yield dataclasses.replace(frame, text=clean_text(frame.text)) if frame.text else frame


def _wire(
    chunk: Chunk, frames: list[Step], tiers: tuple[Tier, ...], fit: Fit, stages: Stages
) -> dict[Tier, bytes]:
    """The chunk's wire form at each tier, from one decode of its frames."""
    images: dict[Tier, list[Any]] = {tier: [] for tier in tiers}
    sizes = [(tier.height, tier.width) for tier in tiers]
    shrink = shrink_to(sizes, fit)
    for frame in frames:
        decode = frame.image
        with stages.timed("decode") as stage:
            image = decode.shrunk(shrink) if isinstance(decode, Shrinkable) else decode()
            stage.bytes += image.nbytes
        with stages.timed("resize") as stage:
            small = resize_each(image, sizes, fit)
            stage.bytes += sum(pixels.nbytes for pixels in small)
        with stages.timed("encode"):
            for tier, pixels in zip(tiers, small, strict=True):
                images[tier].append(pixels if tier.encoding == "raw" else encode_jpeg(pixels))
    with stages.timed("encode") as stage:
        result = {tier: _record(chunk, items, tier) for tier, items in images.items()}
        stage.bytes += sum(map(len, result.values()))
    return result


def _record(chunk: Chunk, images: list[Any], tier: Tier) -> bytes:
    pixels = np.stack(images) if tier.encoding == "raw" else tuple(images)
    sized = dataclasses.replace(chunk, frames=pixels)
    check(sized, tier)
    return encode(sized)
