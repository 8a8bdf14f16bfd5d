"""`Weights`: a safetensors file, checked by its header and read tensor by tensor.

The format is eight bytes of header length, a JSON header, and the tensors' bytes. The header is
read here rather than by a library so that `unisim prepare` can check a 40 GB file on `gs://`
without fetching it, and so that tensors come one at a time: bfloat16 included, which numpy has not.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping

import ml_dtypes
import numpy as np

from pipelines import files
from schemas import UsageError

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_MAX_HEADER = 100_000_000  # the format's own limit
_NAMED = 4  # how many tensors an error names


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """Where a tensor is: `dtype` as the format writes it, bytes `start` to `stop` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of one safetensors file, by name."""

    path: str
    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, path: str) -> Weights:
        """The file's header, checked against the file's size; no tensor is read.

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
                raise UsageError(_truncated(path, size, 8 + length))
            header = f.read(length)
        tensors = _parse(header, 8 + length, path)
        wanted = max((t.stop for t in tensors.values()), default=8 + length)
        if size < wanted:
            raise UsageError(_truncated(path, size, wanted))
        return cls(path=path, tensors=tensors)

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raises UsageError, naming them, if tensors are missing, or of another shape or type."""
        missing = [name for name in wanted if name not in self.tensors]
        if missing:
            raise UsageError(
                f"{self.path}: {_some(missing)} missing; the file has {len(self.tensors)} tensors,"
                " give the T5 directory that config.json belongs to"
            )
        wrong = []
        for name, shape in wanted.items():
            tensor = self.tensors[name]
            if tensor.shape != shape:
                wrong.append(f"{name} is {list(tensor.shape)}, config.json wants {list(shape)}")
            elif tensor.dtype not in _DTYPES:
                wrong.append(f"{name} is {tensor.dtype}, wanted one of {', '.join(_DTYPES)}")
        if wrong:
            raise UsageError(
                f"{self.path}: {_some(wrong, '; ')}; give the weights that config.json belongs to"
            )

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Each named tensor in its stored type, in the file's order, one in memory at a time.

        Raises:
            UsageError: if the file has become shorter than its header says.
        """
        with files.open_read(self.path) as f:
            for name in sorted(names, key=lambda name: self.tensors[name].start):
                tensor = self.tensors[name]
                f.seek(tensor.start)
                data = f.read(tensor.stop - tensor.start)
                if len(data) != tensor.stop - tensor.start:
                    raise UsageError(_truncated(self.path, tensor.start + len(data), tensor.stop))
                yield name, np.frombuffer(data, _DTYPES[tensor.dtype]).reshape(tensor.shape)


def _parse(header: bytes, base: int, path: str) -> dict[str, Tensor]:
    """The header's tensors; offsets in it count from `base`, the end of the header."""
    tensors = {}
    try:
        for name, entry in json.loads(header).items():
            if name == "__metadata__":
                continue
            start, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            tensor = Tensor(
                dtype=str(entry["dtype"]), shape=shape, start=base + start, stop=base + stop
            )
            if not 0 <= start <= stop or any(type(n) is not int or n < 0 for n in shape):
                raise ValueError(f"{name} has bytes {start}..{stop} and shape {list(shape)}")
            dtype = _DTYPES.get(tensor.dtype)
            if dtype and math.prod(shape) * dtype.itemsize != stop - start:
                raise ValueError(f"{name}: {list(shape)} {dtype} is not {stop - start} bytes")
            tensors[name] = tensor
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UsageError(f"{path}: a damaged safetensors header ({e}); {_remedy(b'')}") from e
    return tensors


def _truncated(path: str, size: int, wanted: int) -> str:
    return f"{path}: truncated, {size} of {wanted} bytes are there; {_remedy(b'')}"


def _remedy(start: bytes) -> str:
    if start == b"version ":
        return "it is a Git LFS pointer, fetch the file itself with `git lfs pull`"
    return "fetch the file again"


def _some(items: list[str], separator: str = ", ") -> str:
    """The first few items, and how many more there are."""
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return separator.join(items[:_NAMED]) + more
