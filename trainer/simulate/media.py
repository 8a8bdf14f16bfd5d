"""Frames as files that people look at: an MP4 and a contact sheet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_VIDEO_HEIGHT = 240
_THUMBNAIL_WIDTH = 120
_MARGIN = 12
_FONT_SIZE = 18
_INK, _PAPER = (32, 32, 32), (255, 255, 255)


def write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    """Writes uint8 `[n, h, w, 3]` as H.264, each pixel a square so large that a person sees it."""
    scale = max(1, -(-_VIDEO_HEIGHT // frames.shape[1]))
    if frames.shape[1] * scale % 2 or frames.shape[2] * scale % 2:
        scale += scale % 2  # 4:2:0 video needs even sides
    large = frames.repeat(scale, 1).repeat(scale, 2)
    with _renamed(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = large.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"}
        stream.thread_count = 1  # equal frames, equal bytes
        for image in large:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


Rows = Sequence[tuple[str, np.ndarray]]
"""Captions and frames, uint8 `[n, h, w, 3]`, all of one size; n may differ."""


def contact_sheet(rows: Rows) -> Image.Image:
    """One picture of many videos: a captioned row of frames for each."""
    font = ImageFont.load_default(_FONT_SIZE)
    h, w = rows[0][1].shape[1:3]
    size = (_THUMBNAIL_WIDTH, max(1, round(h * _THUMBNAIL_WIDTH / w)))
    columns = max(len(frames) for _, frames in rows)
    width = columns * (size[0] + 4) - 4 + 2 * _MARGIN
    caption, pitch = _FONT_SIZE + 8, _FONT_SIZE + 8 + size[1] + _MARGIN
    sheet = Image.new("RGB", (width, len(rows) * pitch + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (text, frames) in enumerate(rows):
        top = _MARGIN + i * pitch
        draw.text((_MARGIN, top), _fitted(text, font, width - 2 * _MARGIN), _INK, font)
        for j, frame in enumerate(frames):
            # small frames show their pixels, large ones are averaged
            resample = Image.Resampling.NEAREST if w < size[0] else Image.Resampling.BOX
            thumbnail = Image.fromarray(frame).resize(size, resample)
            sheet.paste(thumbnail, (_MARGIN + j * (size[0] + 4), top + caption))
    return sheet


def write_contact_sheet(path: Path, rows: Rows) -> None:
    """Writes `contact_sheet` as a PNG."""
    with _renamed(path) as temporary:
        contact_sheet(rows).save(temporary, format="PNG")


def _fitted(text: str, font, width: int) -> str:
    """The text on one line, cut with an ellipsis where it would leave the sheet."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@contextlib.contextmanager
def _renamed(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
