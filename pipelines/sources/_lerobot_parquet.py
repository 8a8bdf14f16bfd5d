"""Parquet files read in bounded pieces: of some columns, of a range of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines import files
from pipelines.ops import labels
from schemas import DataError

MAX_ROWS = 10_000_000
_BATCH = 4096
_BUFFER = 1 << 20  # so that a column is read page by page, not a row group at a time


def columns(uri: str) -> list[str]:
    """The names of a file's columns. Raises DataError."""
    return [name for names in _read(uri, _names) for name in names]


def _names(file: pq.ParquetFile) -> Iterator[list[str]]:
    yield file.schema_arrow.names


def batches(
    uri: str,
    names: Sequence[str],
    start: int = 0,
    end: int = MAX_ROWS,
    size: int = _BATCH,
) -> Iterator[pa.RecordBatch]:
    """Rows [start, end) in order, at most `size` at a time; other row groups are not read.

    A batch may hold more columns than asked for: pyarrow takes "a" for "a.b" too.

    Raises:
        DataError: while iterating; if there is no such file or column, or it is damaged.
    """
    return _read(uri, lambda file: _slices(uri, file, names, start, end, size))


def _slices(
    uri: str, file: pq.ParquetFile, names: Sequence[str], start: int, end: int, size: int
) -> Iterator[pa.RecordBatch]:
    lacking = [name for name in names if file.schema_arrow.names.count(name) != 1]
    if lacking:
        name = files.name_of(uri)
        raise DataError(f"{name} lacks the columns {', '.join(lacking[:5])}", uri=uri)
    if file.metadata.num_rows > MAX_ROWS:
        raise DataError(f"{files.name_of(uri)} has more than {MAX_ROWS} rows", uri=uri)
    first = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        low, high = max(start - first, 0), min(end - first, rows)
        first += rows
        if low >= high:
            continue
        at = 0
        for batch in file.iter_batches(
            size, row_groups=[group], columns=list(names), use_threads=False
        ):
            part = batch.slice(
                max(low - at, 0), max(min(high, at + batch.num_rows) - max(low, at), 0)
            )
            at += batch.num_rows
            if part.num_rows:
                part.validate(full=True)
                yield part
            if at >= high:
                break


def _read(uri: str, reader) -> Iterator[Any]:
    """What `reader` yields of the file; only pyarrow runs inside, whose errors are DataError."""
    name = files.name_of(uri)
    try:
        with files.open_read(uri) as stream:
            yield from reader(pq.ParquetFile(stream, buffer_size=_BUFFER))
    except FileNotFoundError as e:
        raise DataError(f"{name} is missing", uri=uri) from e
    except (pa.ArrowException, ValueError, OSError, OverflowError) as e:
        reason = labels.clean_text(str(e))[:200]
        raise DataError(f"{name} is not a whole parquet file ({reason})", uri=uri) from e


def plain(batch: pa.RecordBatch, name: str) -> list[Any]:
    """A column's numbers, None where null. Raises DataError if it holds anything else."""
    column = batch.column(name)
    if not pa.types.is_integer(column.type) and not pa.types.is_floating(column.type):
        raise DataError(f"the column {name} holds {column.type}, wanted numbers")
    return column.to_pylist()


def integers(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column of integers without nulls, int64 `[n]`. Raises DataError if it is not one."""
    column = batch.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"the column {name} holds {column.type} or nulls, wanted integers")
    return column.to_numpy(zero_copy_only=False).astype(np.int64)


def vectors(batch: pa.RecordBatch, name: str, width: int) -> np.ndarray:
    """A column of numbers or lists of `width` numbers, float64 `[n, width]`; null is NaN.

    Raises:
        DataError: if it holds anything else.
    """
    column = flat = batch.column(name)
    kind = column.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        sizes = pc.call_function("list_value_length", [column])
        if column.null_count or (sizes.to_numpy(zero_copy_only=False) != width).any():
            raise DataError(f"the column {name} has not {width} numbers in every row")
        flat = column.flatten()
    numeric = pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)
    if not numeric or len(flat) != batch.num_rows * width:
        raise DataError(f"the column {name} holds {kind}, wanted {width} numbers")
    return flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)


def blobs(batch: pa.RecordBatch, name: str) -> list[bytes]:
    """The files in a column of struct{bytes, path}; paths are not followed.

    Raises:
        DataError: if it is none, or a row has no bytes.
    """
    column = batch.column(name)
    kind = column.type
    field = kind.field("bytes").type if pa.types.is_struct(kind) and _has(kind, "bytes") else None
    if field is None or not (pa.types.is_binary(field) or pa.types.is_large_binary(field)):
        raise DataError(f"the column {name} holds {kind}, wanted struct{{bytes, path}}")
    found = pc.call_function("struct_field", [column], pc.StructFieldOptions("bytes")).to_pylist()
    if any(data is None for data in found):
        raise DataError(f"the column {name} has a row without bytes: images outside are not read")
    return found


def _has(kind: pa.StructType, name: str) -> bool:
    return kind.get_field_index(name) >= 0
