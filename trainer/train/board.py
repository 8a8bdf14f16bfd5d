"""`Board`: a run's curves and videos for TensorBoard, written without TensorFlow."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tensorboardX import SummaryWriter
from tensorboardX.proto import summary_pb2

FOLDER = "tensorboard"
_HEIGHT, _GAP, _FONT_SIZE = 120, 4, 14  # pixels: of a video, at least; between two; of its caption


class Board:
    """`RUN/tensorboard/`, a file per process that the run had and that wrote something. Close it.

    Args:
        run: the run's folder.
        step: steps done; what earlier files say of later steps is not shown any more.
    """

    def __init__(self, run: Path, step: int):
        self._run, self._step = run, step
        self._opened: SummaryWriter | None = None

    def close(self) -> None:
        """Writes what is left."""
        if self._opened:
            self._opened.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve, by its name: "train/loss"."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def write_video(
        self, step: int, name: str, videos: Mapping[str, np.ndarray], *, fps: float, text: str
    ) -> None:
        """Adds videos side by side, as one that moves by itself.

        Args:
            videos: by what they are; uint8 `[n, h, w, 3]`, all of one shape.
            text: what they are of; stands above them.
        """
        frames = _captioned(_beside(list(videos.values())), text)
        image = summary_pb2.Summary.Image(  # pyright: ignore[reportAttributeAccessIssue]
            height=frames.shape[1],
            width=frames.shape[2],
            colorspace=3,
            encoded_image_string=_gif(frames, fps),
        )
        told = {"display_name": f"{name}: {text}", "summary_description": " | ".join(videos)}
        summary: Any = summary_pb2.Summary()  # pyright: ignore[reportAttributeAccessIssue]
        summary.value.add(tag=name, image=image, metadata=told)
        self._writer.file_writer.add_summary(summary, step)

    @property
    def _writer(self) -> Any:
        if self._opened is None:
            self._opened = SummaryWriter(
                str(self._run / FOLDER),
                purge_step=self._step + 1 if self._step else None,
                filename_suffix=f".from-{self._step}",
            )
        return self._opened


def _beside(videos: list[np.ndarray]) -> np.ndarray:
    """Videos of one shape in one, each pixel a square so large that a person sees it."""
    scale = -(-_HEIGHT // videos[0].shape[1])
    large = [video.repeat(scale, 1).repeat(scale, 2) for video in videos]
    gap = np.full((*large[0].shape[:2], _GAP, 3), 255, np.uint8)
    return np.concatenate([large[0], *(part for v in large[1:] for part in (gap, v))], 2)


def _captioned(frames: np.ndarray, text: str) -> np.ndarray:
    """Frames below a strip of paper with a line of text, as much of it as there is room for."""
    strip = Image.new("RGB", (frames.shape[2], 2 * _FONT_SIZE), "white")
    font = ImageFont.load_default(_FONT_SIZE)
    ImageDraw.Draw(strip).text((_GAP, _GAP), " ".join(text.split()), "black", font)
    above = np.broadcast_to(np.asarray(strip), (len(frames), *np.asarray(strip).shape))
    return np.concatenate([above, frames], 1)


def _gif(frames: np.ndarray, fps: float) -> bytes:
    images, data = [Image.fromarray(frame) for frame in frames], io.BytesIO()
    each = round(1000 / fps)  # milliseconds
    images[0].save(
        data, "GIF", save_all=True, append_images=images[1:], duration=each, loop=0, optimize=False
    )
    return data.getvalue()
