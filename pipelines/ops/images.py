"""Still images: strict decoding of untrusted bytes, resizing, JPEG encoding."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from fractions import Fraction

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.episode import Fit, Shrink
from schemas import DataError

_FORMATS = ("JPEG", "PNG", "WEBP")
_PLAIN = b"\xff\xd8\xff"  # how a JPEG begins
_TURNED = b"Exif\0"  # and what one has that may be turned
_COLOURS = ("YCbCr", "Gray")
_PNG_END = b"IEND\xaeB`\x82"
_BAND = 256  # rows
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True)
class EncodedImage:
    """A frame's `image`: `decode_image` of a file's bytes, at less than its size if asked to.

    Attributes:
        data: the bytes, or what reads them when they are wanted.
        uri: of the file, for errors, if it is not the unit's.
    """

    data: bytes | Callable[[], bytes]
    uri: str = ""

    def __call__(self) -> np.ndarray:
        return self.shrunk(None)

    def shrunk(self, shrink: Shrink | None) -> np.ndarray:
        try:
            data = self.data if isinstance(self.data, bytes) else self.data()
            return decode_image(data, shrink=shrink)
        except DataError as e:
            e.uri = e.uri or self.uri
            raise


def shrink_to(sizes: Sequence[tuple[int, int]], fit: Fit) -> Shrink:
    """The least of a picture that `resize` needs for every one of the (height, width) `sizes`."""

    def stretched(h: int, w: int) -> tuple[int, int]:
        return min(h, max(height for height, _ in sizes)), min(w, max(w for _, w in sizes))

    def cropped(h: int, w: int) -> tuple[int, int]:
        # sides of the picture by sides of the box: the largest of all is one of a box's own
        by, of = max(
            ((n, m) for height, width in sizes for n, m in ((height, h), (width, w))),
            key=lambda pair: Fraction(*pair),
        )
        if by >= of:
            return h, w
        return (2 * h * by + of) // (2 * of), (2 * w * by + of) // (2 * of)

    return stretched if fit == "stretch" else cropped


def decode_image(
    data: bytes, *, max_pixels: int = 64_000_000, shrink: Shrink | None = None
) -> np.ndarray:
    """The pixels of a JPEG, PNG or WebP, uint8 `[H, W, 3]` RGB; the content decides, not a name.

    Grey, palette, CMYK and 16-bit images are converted (16 bits keep their high byte), what is
    transparent shows white as on a web page, EXIF orientation is applied, and of an animation the
    first frame is taken. Colour profiles are not applied. Plain JPEGs go straight to libjpeg-turbo,
    which Pillow has too: whatever it minds is Pillow's to judge.

    Args:
        data: the file's bytes, untrusted.
        max_pixels: a header that announces more is refused before anything is decoded.
        shrink: a JPEG may come at a half, a quarter or an eighth of its size, if that leaves twice
            as much as this wants: its blocks are averaged before they are decoded.

    Raises:
        DataError: with stage "decode", whatever is wrong with the bytes; also if they end early.
    """
    pixels = _plain_jpeg(data, max_pixels, shrink)
    return _by_pillow(data, max_pixels, shrink) if pixels is None else pixels


def _plain_jpeg(data: bytes, max_pixels: int, shrink: Shrink | None) -> np.ndarray | None:
    """The pixels of a JPEG that is upright, whole, and wanted at more than half its size; None of
    any other image."""
    if not data.startswith(_PLAIN) or _TURNED in data:
        return None
    try:
        found_height, found_width, colours, _ = simplejpeg.decode_jpeg_header(data)
        height, width = int(found_height), int(found_width)
        least = shrink(height, width) if shrink else (height, width)
        halved = 2 * (2 * least[0]) <= height and 2 * (2 * least[1]) <= width
        if height * width > max_pixels or colours not in _COLOURS or halved:
            return None
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # what libjpeg warns of is one too
        return None


def _by_pillow(data: bytes, max_pixels: int, shrink: Shrink | None) -> np.ndarray:
    """As `decode_image`, of any image."""
    # Pillow's parsers raise whatever their arithmetic runs into on hostile bytes (struct.error,
    # SyntaxError, IndexError, zlib.error …), and only Pillow runs inside: all of it is bad data
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as e:  # its own text holds a memory address
        raise DataError("not a JPEG, PNG or WebP image", stage="decode") from e
    except Exception as e:
        raise DataError(f"cannot be opened as an image: {_reason(e)}", stage="decode") from e
    with image:
        if image.width * image.height > max_pixels:
            raise DataError(
                f"the header announces {image.width}x{image.height} pixels,"
                f" more than the {max_pixels} allowed",
                stage="decode",
            )
        least = _least(image, shrink) if shrink else image.size
        try:
            # twice as much, so that `resize` has what to average; only a JPEG minds it
            image.draft(None, (2 * least[0], 2 * least[1]))
            image.load()
            if image.format == "PNG" and _PNG_END not in data:
                raise OSError("the PNG has no end")  # Pillow minds only missing pixels
            return _pixels(_upright(_to_rgb(image), _orientation(image)))
        except Exception as e:
            raise DataError(f"damaged {image.format} image: {_reason(e)}", stage="decode") from e


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """The JPEG of uint8 `[H, W, 3]` RGB, chroma at half resolution; equal pixels, equal bytes."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def resize(image: np.ndarray, height: int, width: int, fit: Fit) -> np.ndarray:
    """The image at another size, uint8 `[height, width, 3]`.

    An axis that shrinks is averaged over areas, one that grows is interpolated linearly.

    Args:
        image: uint8 `[H, W, 3]`.
        fit: "stretch" keeps every pixel and changes the aspect; "crop" cuts the largest centred box
            of the target's aspect out first.
    """
    if fit == "crop":
        image = _centre_crop(image, height, width)
    h, w = image.shape[:2]
    smaller = (min(w, width), min(h, height))
    if smaller != (w, h):
        image = _average(image, *smaller)
    if smaller != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.ascontiguousarray(image)


def resize_each(image: np.ndarray, sizes: Sequence[tuple[int, int]], fit: Fit) -> list[np.ndarray]:
    """`resize` to each (height, width): one that divides another is averaged from that one, which
    is the same but for a rounding."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for height, width in sorted(set(sizes), reverse=True):
        larger = (size for size in found if _nested((height, width), size, image, fit))
        found[height, width] = resize(found.get(next(larger, (0, 0)), image), height, width, fit)
    return [found[size] for size in sizes]


def _nested(size: tuple[int, int], of: tuple[int, int], image: np.ndarray, fit: Fit) -> bool:
    """Whether each pixel at `size` is some whole pixels at `of`, which are averages."""
    shrunk = of[0] <= image.shape[0] and of[1] <= image.shape[1]
    whole = of[0] % size[0] == 0 and of[1] % size[1] == 0
    same_box = fit == "stretch" or of[0] * size[1] == of[1] * size[0]
    return shrunk and whole and same_box


def is_black(image: np.ndarray, threshold: int = 8) -> bool:
    """Whether no value of a uint8 image exceeds the threshold: padding, an unused camera.

    The brightest pixel decides, not the mean, so that a dark scene is no padding; the threshold is
    what a JPEG's rounding can make of black.
    """
    return bool(image.max(initial=0) <= threshold)


def _average(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Averages over areas. Rows that shrink n + 1 to n, as robots' 256 to 192, are two by two."""
    h, w = image.shape[:2]
    by = h - height
    n = height // by if by else 0
    if width != w or n * by != height or not 0 < n < 9:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    rows = image.reshape(by, n + 1, -1)
    result = np.empty((by, n, rows.shape[2]), np.uint8)
    for i in range(n):
        of_next = (i + 1) / (n + 1)
        pair = rows[:, i], 1 - of_next, rows[:, i + 1], of_next
        cv2.addWeighted(*pair, 0, dst=result[:, i])
    return result.reshape(height, width, 3)


def _pixels(image: Image.Image) -> np.ndarray:
    """As `np.array` has it, in bands, since Pillow hands an image over in three copies."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _BAND):
        box = (0, top, image.width, min(top + _BAND, image.height))
        pixels[top : top + _BAND] = np.asarray(image.crop(box))
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _least(image: Image.Image, shrink: Shrink) -> tuple[int, int]:
    """(width, height), as Pillow has them, that are wanted of an image that is not decoded yet."""
    if image.format in ("JPEG", "MPO") and _orientation(image) in _SIDEWAYS:
        return shrink(image.width, image.height)
    height, width = shrink(image.height, image.width)
    return width, height


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1..8. EXIF that cannot be read turns nothing, as in every viewer."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above: Pillow on hostile bytes; the pixels themselves are whole
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _centre_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    h, w = image.shape[:2]
    # integers throughout, halves rounded up: the same box on every machine
    if w * height > h * width:
        box_h, box_w = h, max(1, (2 * h * width + height) // (2 * height))
    else:
        box_h, box_w = max(1, (2 * w * height + width) // (2 * width)), w
    top, left = (h - box_h) // 2, (w - box_w) // 2
    return image[top : top + box_h, left : left + box_w]


def _reason(e: Exception) -> str:
    return " ".join(f"{type(e).__name__}: {e}".split())
