"""Depth images: strict decoding of 16-bit PNGs from untrusted bytes, and where pixels lie."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from schemas import DataError

# what OpenCV says of damaged bytes is in the DataError
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_START = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
_HEADER = struct.Struct(">IIBBBBB")
_CHUNK = struct.Struct(">I4s")  # length and kind; the content and its checksum follow
_FIRST = len(_START) + _HEADER.size + 4  # where the chunk after the header begins


def decode_depth(data: bytes, *, max_pixels: int = 16_000_000) -> np.ndarray:
    """The values of a 16-bit grey PNG, uint16 `[H, W]`.

    A wrong depth looks like any other, so the decoder is OpenCV's, which verifies the pixels'
    checksums and wants every byte; Pillow, that of `ops.images`, does not.

    Args:
        data: the file's bytes, untrusted.
        max_pixels: a header that announces more is refused before anything is decoded.

    Raises:
        DataError: with stage "decode", whatever is wrong with the bytes; also if it is another
            kind of PNG.
    """
    width, height = _size(data, max_pixels)
    image = cv2.imdecode(np.frombuffer(_essence(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape != (height, width) or image.dtype != np.uint16:
        raise DataError("damaged PNG: a checksum or a size is wrong", stage="decode")
    return image


def flip_origin(intrinsics: np.ndarray, height: int) -> np.ndarray:
    """Intrinsics as OpenCV counts pixels, from the top left one, whose middle is (0, 0): `[3, 3]`.

    Args:
        intrinsics: `[3, 3]`, without skew, of pixels counted from the image's bottom left corner
            and upwards, so that the first one's middle is (0.5, 0.5) (Matterport's .conf).
        height: of the image in pixels.
    """
    flipped = intrinsics.copy()
    flipped[:2, 2] = intrinsics[0, 2] - 0.5, height - intrinsics[1, 2] - 0.5
    return flipped


def _size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height, of a PNG of the right kind."""
    if not data.startswith(_START) or len(data) < _FIRST:
        raise DataError("not a PNG", stage="decode")
    width, height, bits, colour, *_, interlaced = _HEADER.unpack_from(data, len(_START))
    if (bits, colour, interlaced) != (16, 0, 0):
        raise DataError(
            f"a PNG of {bits} bits, colour type {colour}{', interlaced' * bool(interlaced)};"
            " wanted 16 bits, grey, not interlaced",
            stage="decode",
        )
    if not width or not height or width * height > max_pixels:
        raise DataError(
            f"the header announces {width}x{height} pixels, wanted 1 to {max_pixels}",
            stage="decode",
        )
    return width, height


def _essence(data: bytes) -> bytes:
    """The PNG with nothing but header, pixels and end, whole.

    What lies outside of that is not for OpenCV 5.0: animations with frames of other sizes (chunks
    acTL, fcTL) can crash it, and it reserves what a chunk says of its length before it reads.
    """
    kept, at, kind = [data[:_FIRST]], _FIRST, b""
    while kind != b"IEND":
        length, kind = _CHUNK.unpack_from(data, at) if len(data) - at >= _CHUNK.size else (0, b"")
        end = at + _CHUNK.size + length + 4
        if end > len(data):
            raise DataError("damaged PNG: it ends early", stage="decode")
        if kind in (b"IDAT", b"IEND"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)
