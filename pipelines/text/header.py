"""The header of a safetensors file: which tensors are in it, and where.

The format is eight bytes of header length, a JSON header, and the tensors' bytes. The header is
read here rather than by a library so that `unisim prepare` can check a 40 GB file on `gs://`
without fetching it, and so that tensors come one at a time: bfloat16 included, which numpy has not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re

import ml_dtypes
import numpy as np

from pipelines import files
from schemas import UsageError

DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_MAX_HEADER = 100_000_000  # the format's own limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where a tensor is: `dtype` as the format writes it, bytes `start` to `stop` of the file."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: str) -> dict[str, Tensor]:
    """The file's tensors by name, checked against the file's size; no tensor is read.

    Raises:
        UsageError: if the file is not safetensors, or is cut short.
    """
    with files.open_read(path) as f:
        start = f.read(8)
        length = int.from_bytes(start, "little")
        f.seek(0, 2)
        size = f.tell()
        f.seek(8)
        if len(start) < 8 or not 2 <= length <= _MAX_HEADER:
            raise UsageError(f"{path}: not a safetensors file; {_remedy(start)}")
        if 8 + length > size:
            raise truncated(path, size, 8 + length)
        header = f.read(length)
    tensors = _parse(header, 8 + length, path)
    wanted = max((t.stop for t in tensors.values()), default=8 + length)
    if size < wanted:
        raise truncated(path, size, wanted)
    return tensors


def truncated(path: str, size: int, wanted: int) -> UsageError:
    """The error of a file that ends too early."""
    return UsageError(f"{path}: truncated, {size} of {wanted} bytes are there; {_remedy(b'')}")


def _parse(header: bytes, base: int, path: str) -> dict[str, Tensor]:
    """The header's tensors; offsets in it count from `base`, the end of the header."""
    tensors = {}
    try:
        for name, entry in json.loads(header).items():
            if name == "__metadata__":
                continue
            kind, shape = entry["dtype"], tuple(entry["shape"])
            start, stop = entry["data_offsets"]
            if not re.fullmatch("[A-Z0-9_]{1,20}", kind):
                raise ValueError(f"{name!r} has type {kind!r}")
            if any(type(n) is not int or n < 0 for n in (start, stop, *shape)) or start > stop:
                raise ValueError(f"{name!r} has bytes {start}..{stop} and shape {list(shape)}")
            dtype = DTYPES.get(kind)
            if dtype and math.prod(shape) * dtype.itemsize != stop - start:
                raise ValueError(f"{name!r}: {list(shape)} {dtype} is not {stop - start} bytes")
            tensors[name] = Tensor(
                path=path, dtype=kind, shape=shape, start=base + start, stop=base + stop
            )
        _check_apart(tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UsageError(f"{path}: a damaged safetensors header ({e}); {_remedy(b'')}") from e
    return tensors


def _check_apart(tensors: dict[str, Tensor]) -> None:
    """Two tensors over the same bytes: the names have been changed, or the offsets."""
    placed = sorted((t.start, t.stop, name) for name, t in tensors.items())
    for (_, stop, before), (start, _, name) in itertools.pairwise(placed):
        if start < stop:
            raise ValueError(f"{before!r} and {name!r} overlap")


def _remedy(start: bytes) -> str:
    if start == b"version ":
        return "it is a Git LFS pointer, fetch the file itself with `git lfs pull`"
    return "fetch the file again"
