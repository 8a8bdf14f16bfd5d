"""Where a rollout begins: a picture, or a frame of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas import Tier, UsageError
from schemas.table import MANIFEST
from trainer.data import Table

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MAX_PIXELS = 64 << 20


def load_start(path: str, tier: Tier) -> np.ndarray:
    """The first frame, uint8 `[1, h, w, 3]`, of a picture or of a prepared table.

    Raises:
        UsageError: if it is neither.
    """
    if "://" in path or Path(path).is_dir():
        return from_table(path, tier)
    return from_image(Path(path), tier)


def from_image(path: Path, tier: Tier) -> np.ndarray:
    """A picture, stretched to the tier's size, as the sources' frames are by default.

    Raises:
        UsageError: if it is missing, no picture, cut short, or larger than 64 megapixels.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:  # before a pixel is decoded
                raise UsageError(
                    f"{path}: {image.width}x{image.height} pixels are too many; make it smaller"
                )
            picture = ImageOps.exif_transpose(image.convert("RGB"))
            small = picture.resize((tier.width, tier.height), Image.Resampling.BOX)
    except UnidentifiedImageError as e:
        raise UsageError(f"{path}: is no picture; --start takes {', '.join(_FORMATS)}") from e
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise UsageError(f"{path}: cannot be read as a picture ({e})") from e
    return np.asarray(small, np.uint8)[None]


def from_table(path: str, tier: Tier) -> np.ndarray:
    """The first frame of a table's first row in split "val", or of its first row.

    Raises:
        UsageError: if the folder is no table, or has no rows or not this size of frames.
    """
    table = Table(path, tier.name)
    rows = [*table.rows("val")[:1], *range(len(table))[:1]]
    if not rows:
        raise UsageError(f"{path}: {MANIFEST} lists no rows; start from a picture")
    return table.chunk(int(rows[0])).pixels()[:1]
