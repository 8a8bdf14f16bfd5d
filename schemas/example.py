"""`tf.train.Example` bytes, written and read without TensorFlow.

The message types are built at run time in a descriptor pool of their own, so that they never clash
with TensorFlow's when both live in one process. Field numbers are those of TensorFlow's
`example.proto` and `feature.proto`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from schemas.errors import DataError

Value = bytes | str | int | float | bool | list[bytes] | np.ndarray

_FIELD = descriptor_pb2.FieldDescriptorProto


def _messages():
    file = descriptor_pb2.FileDescriptorProto(
        name="open_unisim/example.proto", package="open_unisim", syntax="proto3"
    )
    scalars = {"BytesList": "TYPE_BYTES", "FloatList": "TYPE_FLOAT", "Int64List": "TYPE_INT64"}
    for name, kind in scalars.items():
        file.message_type.add(name=name).field.add(
            name="value", number=1, type=getattr(_FIELD, kind), label=_FIELD.LABEL_REPEATED
        )
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(scalars, 1):
        feature.field.add(
            name=("bytes_list", "float_list", "int64_list")[number - 1],
            number=number,
            type=_FIELD.TYPE_MESSAGE,
            type_name=f".open_unisim.{name}",
            label=_FIELD.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".open_unisim.Feature",
        label=_FIELD.LABEL_OPTIONAL,
    )
    features.field.add(
        name="feature",
        number=1,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".open_unisim.Features.FeatureEntry",
        label=_FIELD.LABEL_REPEATED,
    )
    file.message_type.add(name="Example").field.add(
        name="features",
        number=1,
        type=_FIELD.TYPE_MESSAGE,
        type_name=".open_unisim.Features",
        label=_FIELD.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("open_unisim.Example", "open_unisim.Features")
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]


_Example, _Features = cast("list[Any]", _messages())


def encode(values: Mapping[str, Value]) -> bytes:
    """The serialized Example of a flat mapping; equal mappings give equal bytes.

    `bytes`, `str` and lists of bytes become bytes lists, floats and float arrays float lists,
    ints, bools and their arrays int64 lists.
    """
    example = _Example()
    feature = example.features.feature
    for name, value in values.items():
        if isinstance(value, str):
            feature[name].bytes_list.value.append(value.encode())
        elif isinstance(value, bytes):
            feature[name].bytes_list.value.append(value)
        elif isinstance(value, list):
            feature[name].bytes_list.value.extend(value)
        else:
            array = np.asarray(value)
            if array.dtype.kind == "f":
                feature[name].float_list.value.extend(array.ravel().tolist())
            else:
                feature[name].int64_list.value.extend(array.astype(np.int64).ravel().tolist())
    return example.SerializeToString(deterministic=True)


class Place(NamedTuple):
    """Where one byte string lies in a serialized Example.

    Attributes:
        entries: where the entries of the features begin, and where the byte string's own does:
            those between come before it.
        begin, end: of the byte string itself; the entries after it follow at once.
    """

    entries: tuple[int, int]
    begin: int
    end: int


def locate(head: bytes, name: str) -> Place:
    """Finds a large byte string in an Example by the bytes that come before it.

    `encode` writes features in the order of their names, so what is small may be read without what
    is large.

    Args:
        head: the Example's beginning.
        name: of the feature, less than 128 bytes.

    Raises:
        DataError: if it does not begin within `head`, or is not exactly one byte string.
    """
    found = _pattern(name).search(head)
    if found is None:
        raise DataError(f"feature {name!r} is not one byte string near the beginning")
    of_feature, of_list, size = map(_number, found.groups())
    # the entry's own length stands before its key
    start, end = found.start(), found.end(1) + of_feature
    own = _as_varint(end - start)
    entry = start - 1 - len(own)
    first = _SIZE.match(head)
    if (
        first is None
        or head[max(entry, 0) : start] != _TAG + own
        or not found.end(3) + size == found.end(2) + of_list == end
    ):
        raise DataError(f"feature {name!r} is not one byte string near the beginning")
    return Place(entries=(first.end(), entry), begin=found.end(3), end=end)


def of_entries(entries: bytes) -> Example:
    """The Example of some features' entries, as they stand in a larger one. Raises DataError."""
    found = Example.__new__(Example)
    found._feature = _parsed(_Features, entries).feature
    return found


def _parsed(kind: Any, serialized: bytes) -> Any:
    try:
        return kind.FromString(serialized)
    except (DecodeError, UnicodeDecodeError) as e:
        raise DataError(
            f"{len(serialized)} bytes are not a tf.train.Example ({e})", stage="read"
        ) from e


_TAG = b"\n"  # field 1, of a length that follows
_VARINT = rb"([\x80-\xff]{0,4}[\x00-\x7f])"  # of at most 35 bits
_SIZE = re.compile(_TAG + _VARINT, re.DOTALL)


@functools.lru_cache
def _pattern(name: str) -> re.Pattern[bytes]:
    """A feature's name, and the lengths of the feature, its list and its one byte string."""
    key = b"%c%b\x12" % (len(name), name.encode())
    return re.compile(_TAG + re.escape(key) + _VARINT + (_TAG + _VARINT) * 2)


@functools.lru_cache
def _number(data: bytes) -> int:
    """A varint's value."""
    return sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data))


@functools.lru_cache
def _as_varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


class Example(Mapping[str, "list[bytes] | np.ndarray"]):
    """A parsed Example: a mapping from feature name to `list[bytes]`, float32 or int64 `[n]`.

    Features are converted when they are asked for, so wide ones that nobody reads cost nothing.

    Raises:
        DataError: from the constructor, if the bytes are no Example; from `[]`, if a feature is
            absent.
    """

    def __init__(self, serialized: bytes):
        self._feature = _parsed(_Example, serialized).features.feature

    def __getitem__(self, name: str) -> list[bytes] | np.ndarray:
        if name not in self._feature:
            raise DataError(
                f"feature {name!r} is missing; the record has {', '.join(sorted(self._feature))}"
            )
        feature = self._feature[name]
        kind = feature.WhichOneof("kind")
        if kind == "float_list":
            return np.array(feature.float_list.value, np.float32)
        if kind == "int64_list":
            return np.array(feature.int64_list.value, np.int64)
        return list(feature.bytes_list.value)

    def __iter__(self):
        return iter(self._feature)

    def __len__(self) -> int:
        return len(self._feature)

    def __contains__(self, name: object) -> bool:
        return name in self._feature

    def bytes_list(self, name: str) -> list[bytes]:
        """The feature's byte strings. Raises DataError if it holds numbers."""
        if name in self._feature and (found := self._feature[name].bytes_list.value):
            return list(found)
        value = self[name]
        if not isinstance(value, list):
            raise DataError(f"feature {name!r} holds {value.dtype}, wanted bytes")
        return value

    def number(self, name: str) -> int:
        """The feature's one whole number. Raises DataError if it is another thing."""
        return self.whole_numbers(name, 1)[0]

    def whole_numbers(self, name: str, count: int) -> list[int]:
        """The feature's `count` whole numbers. Raises DataError if it is another thing."""
        if name in self._feature and len(found := self._feature[name].int64_list.value) == count:
            return list(found)
        what = "one whole number" if count == 1 else f"{count} whole numbers"
        raise DataError(f"feature {name!r} is not {what}")

    def numbers(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """The feature's numbers, reshaped to `shape` (one -1 allowed). Raises DataError if they
        are bytes or do not fit."""
        value = self[name]
        if isinstance(value, list):
            if value:
                raise DataError(f"feature {name!r} holds bytes, wanted numbers")
            value = np.zeros(0, np.float32)
        if shape is None:
            return value
        try:
            return value.reshape(shape)
        except ValueError as e:
            raise DataError(
                f"feature {name!r} has {value.size} numbers, wanted shape {shape}"
            ) from e
