"""`Weights`: a model's tensors in one safetensors file, or in several with an index.

All is checked by the headers before a tensor is read, and tensors are read one at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from pipelines import files
from pipelines.text.header import DTYPES, Tensor, read_header, truncated
from schemas import UsageError

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

_BLOCK = 4 << 20  # bytes; whole values of every type
_MAX_INDEX = 64 << 20  # bytes; far above that of any model
_NAMED = 4  # how many tensors an error names
# the exponent's bits of the two-byte types: all set in what is not finite, and only there
_EXPONENT = {"F16": 0x7C00, "BF16": 0x7F80}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """The tensors of a folder that a model wants, by name."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def open(cls, folder: str, wanted: Mapping[str, tuple[int, ...]]) -> Weights:
        """Where the wanted tensors are; headers are read, no tensor is. Other tensors, and the
        files of an index that hold nothing else, are no concern: half of a T5 is its decoder.

        Args:
            folder: with model.safetensors, or model.safetensors.index.json and the files it lists.
            wanted: name -> shape.

        Raises:
            UsageError: in one line, if files or tensors are missing, or damaged, cut short, of
                another shape or no float type.
        """
        single, index = files.join(folder, WEIGHTS), files.join(folder, INDEX)
        if files.exists(single):
            where, found = single, read_header(single)
        elif files.exists(index):
            where, found = index, _read_headers(folder, index, wanted)
        else:
            raise UsageError(
                f"{folder}: not a T5 directory, {WEIGHTS} is missing, and so is {INDEX} (other"
                " weight formats are not read, convert them)"
            )
        _check(found, wanted, where)
        return cls(tensors={name: found[name] for name in wanted})

    def read(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each tensor in its stored type, in the files' order, one in memory at a time.

        Raises:
            UsageError: if a file has become shorter than its header says.
        """
        for name, tensor, f in self._opened():
            data = f.read(tensor.stop - tensor.start)
            if len(data) != tensor.stop - tensor.start:
                raise truncated(tensor.path, tensor.start + len(data), tensor.stop)
            yield name, np.frombuffer(data, DTYPES[tensor.dtype]).reshape(tensor.shape)

    def digest(self) -> str:
        """Hex BLAKE2b-128 of names, types, shapes and values, whatever files they are in.

        Reads each byte once, and looks at the values as they pass.

        Raises:
            UsageError: naming the tensor, if a value is not finite.
        """
        digests = {}
        for name, tensor, f in self._opened():
            one = hashlib.blake2b(digest_size=16)
            for block in _blocks(f, tensor):
                one.update(block)
                if not _finite(block, tensor.dtype):
                    raise UsageError(
                        f"{tensor.path}: {name} has values that are not finite; fetch the file"
                        " again, or save the model anew"
                    )
            digests[name] = f"{name} {tensor.dtype} {list(tensor.shape)} {one.hexdigest()}\n"
        lines = "".join(digests[name] for name in sorted(digests))
        return hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()

    def _opened(self) -> Iterator[tuple[str, Tensor, BinaryIO]]:
        """Each tensor with its file, which stands at its first byte."""
        placed = sorted(self.tensors.items(), key=lambda item: (item[1].path, item[1].start))
        for path, tensors in itertools.groupby(placed, key=lambda item: item[1].path):
            with files.open_read(path) as f:
                for name, tensor in tensors:
                    f.seek(tensor.start)
                    yield name, tensor, f


def _blocks(f: BinaryIO, tensor: Tensor) -> Iterator[bytes]:
    at = tensor.start
    while at < tensor.stop:
        block = f.read(min(_BLOCK, tensor.stop - at))
        at += len(block)
        if at < tensor.stop and len(block) < _BLOCK:
            raise truncated(tensor.path, at, tensor.stop)
        yield block


def _finite(block: bytes, dtype: str) -> bool:
    """Whether all values are finite, as float32 too."""
    if mask := _EXPONENT.get(dtype):
        return not ((np.frombuffer(block, "<u2") & mask) == mask).any()
    with np.errstate(over="ignore"):
        values = np.frombuffer(block, DTYPES[dtype]).astype(np.float32, copy=False)
    return bool(np.isfinite(values).all())


def _read_headers(
    folder: str, index: str, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The wanted tensors of a sharded model, as far as they are there."""
    listed, total = _read_index(index)
    names: dict[str, list[str]] = {}
    for name in wanted:
        if name in listed:
            names.setdefault(listed[name], []).append(name)
    absent = [file for file in sorted(names) if not files.exists(files.join(folder, file))]
    if absent:
        raise UsageError(f"{folder}: {_some(absent)} missing, which {INDEX} lists; fetch the rest")
    found = {}
    for file in sorted(names):
        header = read_header(files.join(folder, file))
        lost = [name for name in names[file] if name not in header]
        if lost:
            raise UsageError(
                f"{files.join(folder, file)}: {_some(lost)} missing, which {INDEX} places there;"
                " fetch both again from one place"
            )
        found |= {name: header[name] for name in names[file]}
    size = sum(tensor.stop - tensor.start for tensor in found.values())
    if total is not None and size > total:
        raise UsageError(
            f"{index}: total_size is {total} bytes but the encoder alone has {size}; give the index"
            " that belongs to the files"
        )
    return found


def _read_index(path: str) -> tuple[dict[str, str], int | float | None]:
    """Tensor -> file, and the bytes of all tensors where the index says them."""
    with files.open_read(path) as f:
        data = f.read(_MAX_INDEX + 1)
    try:
        if len(data) > _MAX_INDEX:
            raise ValueError(f"more than {_MAX_INDEX >> 20} MB")
        value = json.loads(data)
        listed, total = value["weight_map"], value.get("metadata", {}).get("total_size")
        if type(total) not in (int, float, type(None)):
            raise ValueError(f"total_size is {total!r}")
        for name, file in listed.items():
            # a plain name: nothing above the folder, and nothing on another machine
            if not isinstance(file, str) or not re.fullmatch(r"\w[\w.+-]*\.safetensors", file):
                raise ValueError(f"{name!r} is in {file!r}, wanted a .safetensors beside it")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UsageError(f"{path}: a damaged index ({e}); fetch the file again") from e
    return listed, total


def _check(found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises UsageError, naming them, if tensors are missing, or of another shape or type."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UsageError(
            f"{where}: {_some(missing)} missing; {len(found)} tensors are there, give the T5"
            " directory that config.json belongs to"
        )
    wrong = []
    for name, shape in wanted.items():
        tensor = found[name]
        if tensor.shape != shape:
            wrong.append(f"{name} is {list(tensor.shape)}, config.json wants {list(shape)}")
        elif tensor.dtype not in DTYPES:
            wrong.append(f"{name} is {tensor.dtype}, wanted one of {', '.join(DTYPES)}")
    if wrong:
        raise UsageError(
            f"{where}: {_some(wrong, '; ')}; give the weights that config.json belongs to"
        )


def _some(items: Sequence[str], separator: str = ", ") -> str:
    """The first few items, and how many more there are."""
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return separator.join(items[:_NAMED]) + more
