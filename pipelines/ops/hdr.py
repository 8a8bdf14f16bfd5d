"""High dynamic range: Radiance .hdr images from untrusted bytes, and tone mapping. Pure.

Format: Radiance, "Picture file format" (ray/doc/filefmts); old and new run lengths as in its
src/common/color.c. Tone mapping: Reinhard, Stark, Shirley and Ferwerda, "Photographic Tone
Reproduction for Digital Images", SIGGRAPH 2002, equations 1, 2 and 4.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Iterator

import cv2
import numpy as np

from schemas import DataError

# what OpenCV says of damaged bytes is in the DataError
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_MAGICS = (b"#?RADIANCE", b"#?RGBE")
_FORMAT = b"32-bit_rle_rgbe"
_MAX_HEADER = 64 << 10
_MAX_LINE = 4096
_SIZE = re.compile(rb"-Y +([0-9]{1,9}) +\+X +([0-9]{1,9})")
_BIAS = 128 + 8  # of the exponents: a mantissa of 8 bits is below 1
# widths that new run lengths can have; one run repeats 127 bytes at most, and takes two
_NARROWEST, _WIDEST, _RUN = 8, 0x7FFF, 127

_LUMINANCE = (0.2126, 0.7152, 0.0722)  # of linear sRGB, as of ITU-R BT.709
_KEY = 0.18  # the middle grey that a scene's average becomes
_WHITE = 0.99  # the share of the lit pixels that are below white
_BLOCK = 1 << 18  # pixels that are mapped at a time


def is_hdr(data: bytes) -> bool:
    """Whether the bytes begin as a Radiance .hdr does."""
    return data.startswith(_MAGICS)


def decode_hdr(data: bytes, *, max_pixels: int = 16_777_216) -> np.ndarray:
    """The pixels of a Radiance .hdr, float32 `[H, W, 3]` linear RGB, finite and not negative.

    Flat pixels and both kinds of run lengths are read, rows from the top and from the left as
    nearly everybody writes them. EXPOSURE and other lines about units and colours are not applied.

    Args:
        data: the file's bytes, untrusted.
        max_pixels: a header that announces more is refused before anything is decoded.

    Raises:
        DataError: with stage "decode", whatever is wrong with the bytes; also if they end early.
    """
    height, width, body = _header(data, max_pixels)
    runs = _NARROWEST <= width <= _WIDEST and b"\2\2" <= bytes(body[:3]) < b"\2\2\x80"
    if not runs:
        return _linear(_old_runs(body, height * width)).reshape(height, width, 3)
    if len(body) < height * (4 + 4 * 2 * -(-width // _RUN)):
        raise _damaged("it ends early")
    # with a header of our own: OpenCV does not read all that programs write
    clean = b"#?RADIANCE\nFORMAT=%s\n\n-Y %d +X %d\n" % (_FORMAT, height, width)
    whole = np.frombuffer(b"".join((clean, body)), np.uint8)
    image = cv2.imdecode(whole, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH)
    if image is None or image.shape != (height, width, 3) or image.dtype != np.float32:
        raise _damaged("its runs are broken, or it ends early")
    return image


def tone_map(linear: np.ndarray) -> np.ndarray:
    """An HDR image for the screen, uint8 `[H, W, 3]` sRGB.

    The exposure follows the image: its log-average luminance becomes a middle grey (equation 2),
    and what is brighter than 99% of it white (equation 4). Black pixels count for neither, since
    what is black has no logarithm. Another exposure of the same scene gives the same image.

    Args:
        linear: float32 `[H, W, 3]` linear RGB, finite and not negative.
    """
    average, white = _exposure(linear)
    scale, curve = _KEY / average, _srgb()
    limit = max(1.0, white * scale)  # of a dull scene nothing becomes white
    mapped = np.empty(linear.shape, np.uint8)
    for rows in _blocks(linear.shape):
        colour = linear[rows]
        luminance = _luminance(colour)
        scaled = np.minimum(luminance, white) * scale
        shown = scaled * (1 + scaled / limit**2) / (1 + scaled)
        gain = np.divide(shown, luminance, out=np.zeros_like(shown), where=luminance > 0)
        levels = np.minimum(colour * gain[..., None], 1) * (len(curve) - 1) + 0.5
        mapped[rows] = curve[levels.astype(np.uint16)]
    return mapped


def _header(data: bytes, max_pixels: int) -> tuple[int, int, memoryview]:
    """Height, width, and what comes after the header."""
    if not is_hdr(data):
        raise DataError("not a Radiance .hdr image", stage="decode")
    lines = io.BytesIO(data)
    while line := lines.readline(_MAX_LINE).rstrip(b"\r\n"):
        name, _, value = line.partition(b"=")
        if name == b"FORMAT" and value.strip() != _FORMAT:
            raise DataError("a .hdr of another format than 32-bit_rle_rgbe", stage="decode")
        if lines.tell() > _MAX_HEADER:
            raise _damaged(f"a header of more than {_MAX_HEADER} bytes")
    match = _SIZE.fullmatch(lines.readline(_MAX_LINE).rstrip(b"\r\n"))
    if not match:
        raise DataError("no size '-Y height +X width' after the header", stage="decode")
    height, width = int(match[1]), int(match[2])
    if not height or not width or height * width > max_pixels:
        raise DataError(
            f"the header announces {width}x{height} pixels, wanted 1 to {max_pixels}",
            stage="decode",
        )
    return height, width, memoryview(data)[lines.tell() :]


def _old_runs(body: memoryview, pixels: int) -> np.ndarray:
    """uint8 `[pixels, 4]` of flat pixels, in which 1 1 1 n repeats the one before it n times; n of
    a second one in a row counts 256 times as much, and so on. OpenCV takes those for pixels."""
    count = min(len(body) // 4, pixels)
    quads = np.frombuffer(body, np.uint8, 4 * count).reshape(count, 4)
    repeats = (quads[:, :3] == 1).all(1)
    if not repeats.any():
        if count < pixels:
            raise _damaged("it ends early")
        return quads
    found, at, filled = np.empty((pixels, 4), np.uint8), 0, 0
    while at < count:
        end = min(at + _BLOCK, count)
        # a block ends where its last run does
        end += int(np.append(~repeats[end : end + 5], True).argmax())
        part = _repeated(quads[at:end], repeats[at:end], pixels - filled)
        found[filled : filled + len(part)] = part
        at, filled = end, filled + len(part)
    if filled < pixels:
        raise _damaged("it ends early")
    return found


def _repeated(quads: np.ndarray, repeats: np.ndarray, most: int) -> np.ndarray:
    """The pixels of quads, of which some are repeats."""
    starts = np.flatnonzero(~repeats)
    numbers = np.arange(len(quads))
    row = numbers - np.maximum.accumulate(np.where(repeats, 0, numbers))  # 1 at a first repeat
    if repeats[0] or row.max() > 4:
        raise _damaged("its runs are broken")
    times = np.where(repeats, quads[:, 3].astype(np.int64) << 8 * np.maximum(row - 1, 0), 1)
    times = np.add.reduceat(times, starts)
    if times.sum() > most:
        raise _damaged("a run goes past its end")
    return np.repeat(quads[starts], times, 0)


def _linear(rgbe: np.ndarray) -> np.ndarray:
    """float32 `[n, 3]` of pixels `[n, 4]` with a common exponent."""
    scales = np.ldexp(np.float32(1), np.arange(256) - _BIAS).astype(np.float32)
    scales[0] = 0  # black, whatever the mantissas
    return rgbe[:, :3] * scales[rgbe[:, 3]][:, None]


def _luminance(colour: np.ndarray) -> np.ndarray:
    """float64 `[h, w]`: in float32 the quotient of two of them can be infinite."""
    red, green, blue = (
        colour[..., i].astype(np.float64) * weight for i, weight in enumerate(_LUMINANCE)
    )
    return red + green + blue


def _exposure(linear: np.ndarray) -> tuple[float, float]:
    """The log-average luminance (equation 1, of the lit pixels alone) and that of white.

    A float32's upper half is its logarithm in steps of less than 1%, so counting these halves
    gives both, with integers that no machine adds up in another way.
    """
    counts = np.zeros(1 << 15, np.int64)
    for rows in _blocks(linear.shape):
        bits = _luminance(linear[rows]).astype(np.float32).view(np.uint32)
        counts += np.bincount(bits.ravel() >> 16, minlength=len(counts))
    counts[0] = 0
    lit = np.flatnonzero(counts)
    if not len(lit):
        return 1.0, 1.0
    counts = counts[lit]
    values = ((lit << 16) + (1 << 15)).astype(np.uint32).view(np.float32).tolist()
    logs = math.fsum(n * math.log(value) for n, value in zip(counts.tolist(), values, strict=True))
    white = np.searchsorted(np.cumsum(counts), _WHITE * counts.sum())
    return math.exp(logs / int(counts.sum())), values[white]


def _blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, _BLOCK // max(1, shape[1]))
    return (slice(top, top + rows) for top in range(0, shape[0], rows))


@functools.lru_cache(1)
def _srgb() -> np.ndarray:
    """uint8 `[65536]`: the sRGB curve (IEC 61966-2-1) of linear values 0 to 1 in equal steps."""
    x = np.arange(1 << 16) / 0xFFFF
    curve = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return (255 * curve + 0.5).astype(np.uint8)


def _damaged(reason: str) -> DataError:
    return DataError(f"damaged .hdr: {reason}", stage="decode")
