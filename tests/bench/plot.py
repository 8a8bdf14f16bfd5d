"""A picture of costs that grow: both axes logarithmic, with the growth that is the limit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 760, 480
LEFT, RIGHT, TOP, BOTTOM = 90, 60, 50, 60
TITLES = {"build": "making all keys of n texts", "find": "finding 1,000 texts among n"}
COLOURS = {"build": "#1f4e9c", "find": "#b5451b"}
GREY = "#b9b9b9"


def draw(path: Path, counts: Sequence[int], per_text: Mapping[str, Sequence[float]]) -> None:
    """A PNG of the seconds for all n texts ("build") and for 1,000 look-ups ("find").

    Args:
        counts: n, growing.
        per_text: seconds for each n. The grey lines go through the second point: what the first
            takes is mostly the same for any n.
    """
    lines = {
        "build": [n * cost for n, cost in zip(counts, per_text["build"], strict=True)],
        "find": [1000 * cost for cost in per_text["find"]],
    }
    from_ = counts[1]
    limits = {
        "build": [lines["build"][1] * n * math.log(n, from_) / from_ for n in counts],
        "find": [lines["find"][1] * math.log(n, from_) for n in counts],
    }
    values = [v for group in (lines, limits) for line in group.values() for v in line]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    canvas = _Canvas(counts, low, high)
    for name, line in lines.items():
        canvas.line(counts, limits[name], GREY, dots=False)
        canvas.line(counts, line, COLOURS[name])
        canvas.label(counts[-1], line[-1], TITLES[name], COLOURS[name])
    canvas.image.save(path, optimize=True)


def draw_scale(
    path: Path, counts: Sequence[int], seconds: Sequence[float], megabytes: Sequence[float]
) -> None:
    """A PNG of wall seconds and peak MB of `unisim prepare` on so many images. The grey line grows
    as the images do, from the second point of the seconds."""
    linear = [seconds[1] * n / counts[1] for n in counts]
    values = (*seconds, *megabytes, *linear)
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    title = "unisim prepare: wall seconds, and peak megabytes; grey: seconds if linear"
    canvas = _Canvas(counts, low, high, title, "images", "")
    canvas.line(counts, linear, GREY, dots=False)
    for values, name, colour in (
        (seconds, "seconds", COLOURS["build"]),
        (megabytes, "megabytes, all processes", COLOURS["find"]),
    ):
        canvas.line(counts, values, colour)
        canvas.label(counts[-1], values[-1], name, colour, 25)
    canvas.image.save(path, optimize=True)


class _Canvas:
    """The axes, and places on them."""

    def __init__(
        self,
        counts: Sequence[int],
        low: int,
        high: int,
        title: str = "seconds of one core; grey: n log n and log n from the second point",
        axis: str = "n, distinct texts",
        unit: str = " s",
    ):
        self.image = Image.new("RGB", (WIDTH, HEIGHT), "white")
        self._draw = ImageDraw.Draw(self.image)
        self._font = ImageFont.load_default(15)
        self._first, self._last = math.log10(counts[0]), math.log10(counts[-1])
        self._low, self._high = low, high
        for n in counts:
            x, _ = self._place(n, 1)
            self._draw.line((x, TOP, x, HEIGHT - BOTTOM), "#ececec")
            self._text(x, HEIGHT - BOTTOM + 18, f"{n:,}", "mm")
        for power in range(low, high + 1):
            _, y = self._place(counts[0], 10.0**power)
            self._draw.line((LEFT, y, WIDTH - RIGHT, y), "#ececec")
            self._text(LEFT - 10, y, f"{10.0**power:g}{unit}", "rm")
        self._text(WIDTH / 2, HEIGHT - 16, axis, "mm")
        self._text(WIDTH / 2, TOP / 2, title, "mm")

    def line(
        self, counts: Sequence[int], values: Sequence[float], colour: str, dots: bool = True
    ) -> None:
        places = [self._place(n, value) for n, value in zip(counts, values, strict=True)]
        self._draw.line(places, colour, 2)
        for x, y in places if dots else ():
            self._draw.ellipse((x - 4, y - 4, x + 4, y + 4), colour)

    def label(self, count: int, value: float, text: str, colour: str, below: int = 110) -> None:
        x, y = self._place(count, value)
        self._text(x, y + 34 if y > HEIGHT - 3 * BOTTOM else y + below, text, "rm", colour)

    def _place(self, count: float, value: float) -> tuple[float, float]:
        across = (math.log10(count) - self._first) / (self._last - self._first)
        up = (math.log10(value) - self._low) / (self._high - self._low)
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + across * width, HEIGHT - BOTTOM - up * height

    def _text(self, x: float, y: float, text: str, anchor: str, colour: str = "black") -> None:
        self._draw.text((x, y), text, colour, self._font, anchor)
