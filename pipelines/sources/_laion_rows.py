"""The rows of the parquet that img2dataset writes beside each tar, from untrusted bytes."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import files
from pipelines.ops import labels
from schemas import DataError

SIDES = ("width", "height", "original_width", "original_height")
_REQUIRED = ("key", "status")
_COLUMNS = {*_REQUIRED, "error_message", "caption", "license", "nsfw", *SIDES}
_COLUMNS |= {"similarity", "pwatermark", "punsafe"}
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_ROWS = 1_000_000
_MAX_TEXT = 10_000  # bytes
_MAX_BYTES = 1 << 30  # decompressed, repeated texts counted once


@dataclasses.dataclass(frozen=True)
class Row:
    """One row: (lower-case column name, value) pairs, texts as bytes that may be no UTF-8.

    Names may repeat, as LAION's own WIDTH beside img2dataset's width.
    """

    cells: tuple[tuple[str, Any], ...]

    def text(self, name: str) -> str:
        """The first text of that name, on one line; "" if there is none.

        Raises:
            DataError: as `plain_text`.
        """
        for column, value in self.cells:
            if column == name and isinstance(value, bytes):
                return plain_text(value, name)
        return ""

    def numbers(self, *names: str) -> list[float]:
        """All finite numbers of these names, also those that are written as text."""
        values = (_number(value) for column, value in self.cells if column in names)
        return [value for value in values if value is not None]


def plain_text(data: bytes, name: str) -> str:
    """The text of UTF-8 bytes, on one line.

    Raises:
        DataError: that says `name`, if it is not UTF-8, or longer than an alt text ever is.
    """
    if len(data) > _MAX_TEXT:
        raise DataError(f"the {name} is longer than {_MAX_TEXT} bytes", stage="annotate")
    try:
        return labels.clean_text(data.decode())
    except UnicodeDecodeError as e:
        raise DataError(f"the {name} is not UTF-8 ({e})", stage="annotate") from e


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


class Rows:
    """A table's rows by key; one is made when it is asked for.

    Attributes:
        numbers: key -> row number, once `index` has run.

    Raises:
        DataError: from the constructor, if the file is missing or not such a table.
    """

    def __init__(self, uri: str):
        self._uri = uri
        self._table = _read(uri)
        self.numbers: dict[str, int] = {}

    def index(self) -> Iterator[DataError]:
        """Fills `numbers`; what is wrong with single rows."""
        column = self._table.columns[self._table.column_names.index("key")]
        for number in range(len(column)):
            key = (column[number].as_py() or b"")[:80].decode(errors="replace")
            if not _KEY.fullmatch(key):
                name = labels.clean_text(key) or f"row {number}"
                reason = f"{key!r} is no key"
            elif key in self.numbers:
                name, reason = key, "a second row"
            else:
                self.numbers[key] = number
                continue
            yield DataError(
                reason, stage="annotate", key=name, uri=self._uri, where=f"row {number}"
            )

    def __getitem__(self, key: str) -> Row:
        number = self.numbers[key]
        columns = zip(self._table.column_names, self._table.columns, strict=True)
        return Row(tuple((name, column[number].as_py()) for name, column in columns))


def _read(uri: str) -> pa.Table:
    """The columns that are used, by lower-case name: some releases write their own in capitals.

    Columns of other kinds than text and number are left out: a nested one can hold anything, and
    any amount of it. Texts stay dictionaries: a small file may repeat a long one a million times.
    """
    name = files.name_of(uri)
    if not files.exists(uri):
        raise DataError(f"{name} is missing: the shard is not complete", uri=uri)
    with files.local_copy(uri) as path, open(path, "rb") as file:
        try:
            table = _columns(file, name)
        except (pa.ArrowException, ValueError, OSError) as e:
            if isinstance(e, OSError) and e.errno:
                raise  # the disk's error, not the file's
            reason = labels.clean_text(str(e))[:500]
            raise DataError(f"{name} is not a whole parquet file ({reason})", uri=uri) from e
        except DataError as e:
            e.uri = uri
            raise
    return table.rename_columns([column.lower() for column in table.column_names])


def _columns(file: BinaryIO, name: str) -> pa.Table:
    parquet = pq.ParquetFile(file)
    fields = [field for field in parquet.schema_arrow if field.name.lower() in _COLUMNS]
    texts = [field.name for field in fields if _is_text(field.type)]
    lacking = [column for column in _REQUIRED if column not in map(str.lower, texts)]
    if lacking:
        raise DataError(f"{name} lacks the text columns {', '.join(lacking)}")
    wanted = texts + [field.name for field in fields if _is_number(field.type)]
    if len(set(wanted)) < len(wanted):
        raise DataError(f"{name} has columns of one name")
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    rows = max(parquet.metadata.num_rows, sum(group.num_rows for group in groups))
    if rows > _MAX_ROWS:
        raise DataError(f"{name} has {rows} rows, more than {_MAX_ROWS}")
    # of all columns: a single one cannot be asked, as its metadata, if damaged, ends the process
    size = sum(group.total_byte_size for group in groups)
    if size > _MAX_BYTES:
        raise DataError(f"{name} unpacks to {size} bytes, more than {_MAX_BYTES}")
    table = pq.ParquetFile(file, read_dictionary=texts).read(wanted, use_threads=False)
    columns = [_as_bytes(x) if _is_text(x.type) else x for x in table.columns]
    return pa.Table.from_arrays(columns, table.column_names)


def _as_bytes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts, which no reader has checked to be UTF-8, as a dictionary of bytes, cut just beyond the
    length that is refused."""
    kind, chunks = pa.large_binary(), []
    for chunk in column.dictionary_encode().chunks:
        texts = chunk.dictionary.cast(kind)
        texts = pc.binary_slice(texts, 0, _MAX_TEXT + 1)  # type: ignore[attr-defined]
        chunks.append(pa.DictionaryArray.from_arrays(chunk.indices, texts))
    return pa.chunked_array(chunks, pa.dictionary(pa.int32(), kind))


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    tests += (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in tests)
