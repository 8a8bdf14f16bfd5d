"""Ways to damage a file: as bytes, and as what its format says it is."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipelines.ops import tfrecord
from schemas import DataError

Rng = np.random.Generator
Mutation = Callable[[bytes, Rng], bytes]

_JUNK: list[Any] = [
    None, "", " ", 0, -1, 1e308, 2**70, -0.5, True, [], {}, [[[]]], {"a": {}}, "../../etc/passwd",
    "/etc/passwd", "\ud800", "\x00", "NaN", float("nan"), float("inf"), "#C #unsure", "[something]",
    "a" * 10_000, "%s%n{0}{x}", ["x", 1], {"": None}, "🙂", "1e9", "-5", "00:00:61.5", "é",
]  # fmt: skip


def flip(data: bytes, rng: Rng) -> bytes:
    """One to sixteen bytes replaced."""
    if not data:
        return data
    out = np.frombuffer(data, np.uint8).copy()
    at = rng.integers(0, len(out), rng.integers(1, 17))
    out[at] = rng.integers(0, 256, len(at))
    return out.tobytes()


def cut(data: bytes, rng: Rng) -> bytes:
    """The end is missing."""
    return data[: rng.integers(0, len(data) + 1)]


def drop(data: bytes, rng: Rng) -> bytes:
    """A run in the middle is missing."""
    a, b = np.sort(rng.integers(0, len(data) + 1, 2))
    return data[:a] + data[min(b, a + 4096) :]


def zero(data: bytes, rng: Rng) -> bytes:
    """A run of zeros, as a lost disk block leaves it."""
    a = int(rng.integers(0, len(data) + 1))
    n = min(int(rng.integers(1, 4096)), len(data) - a)
    return data[:a] + bytes(n) + data[a + n :]


def insert(data: bytes, rng: Rng) -> bytes:
    """Random bytes in the middle."""
    a = int(rng.integers(0, len(data) + 1))
    return data[:a] + rng.bytes(int(rng.integers(1, 64))) + data[a:]


def repeat(data: bytes, rng: Rng) -> bytes:
    """A run that comes twice."""
    a, b = np.sort(rng.integers(0, len(data) + 1, 2))
    return data[:b] + data[a : min(b, a + 4096)] + data[b:]


def empty(data: bytes, rng: Rng) -> bytes:
    """Nothing."""
    return b""


def other(data: bytes, rng: Rng) -> bytes:
    """Another kind of file under this name."""
    kinds = [b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + rng.bytes(64), b"\x1f\x8b" + rng.bytes(64)]
    kinds += [b"PK\x03\x04" + rng.bytes(64), rng.bytes(256), b"[" * 100_000, b"{}", b"[]", b"null"]
    return kinds[rng.integers(len(kinds))]


def size_field(data: bytes, rng: Rng) -> bytes:
    """Four bytes that may be a size become a huge one."""
    if len(data) < 8:
        return data
    a = int(rng.integers(0, len(data) - 4))
    huge = [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"]
    return data[:a] + huge[rng.integers(4)] + data[a + 4 :]


BYTES: list[Mutation] = [flip, flip, cut, drop, zero, insert, repeat, empty, other, size_field]


def json_values(data: bytes, rng: Rng) -> bytes:
    """One to three values of a JSON document become junk, or are removed, or come twice."""
    try:
        value = json.loads(data)
    except ValueError:
        return flip(data, rng)
    for _ in range(rng.integers(1, 4)):
        value = _spoil(value, rng)
    return json.dumps(value).encode()


def _spoil(value: Any, rng: Rng) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = sorted(value)[rng.integers(len(value))]
        if rng.random() < 0.05:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: _spoil(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.93:
        i = int(rng.integers(len(value)))
        if rng.random() < 0.1:
            return value[:i] + value[i + 1 :] if rng.random() < 0.5 else [*value, value[i]]
        return [*value[:i], _spoil(value[i], rng), *value[i + 1 :]]
    return _JUNK[rng.integers(len(_JUNK))]


def json_lines(data: bytes, rng: Rng) -> bytes:
    """One line of JSON lines is spoiled."""
    lines = data.split(b"\n")
    i = int(rng.integers(len(lines)))
    lines[i] = json_values(lines[i], rng) if lines[i] else b"{"
    return b"\n".join(lines)


def csv_fields(data: bytes, rng: Rng) -> bytes:
    """Some fields of a table of comma separated values become junk."""
    lines = data.split(b"\n")
    for _ in range(rng.integers(1, 4)):
        i = int(rng.integers(len(lines)))
        fields = lines[i].split(b",")
        junk = _JUNK[rng.integers(len(_JUNK))]
        fields[rng.integers(len(fields))] = str(junk).encode("utf-8", "surrogatepass")
        lines[i] = b",".join(fields)
    return b"\n".join(lines)


def conf_lines(data: bytes, rng: Rng) -> bytes:
    """Some lines of a .conf get a field that is junk, or go, come twice, or stand elsewhere."""
    lines = data.split(b"\n")
    for _ in range(min(rng.integers(1, 4), len(lines))):
        i, j = rng.integers(len(lines), size=2)
        choice = rng.integers(6)
        if choice < 3:
            fields = lines[i].split(b" ")
            junk = str(_JUNK[rng.integers(len(_JUNK))])
            fields[rng.integers(len(fields))] = junk.encode("utf-8", "surrogatepass")
            lines[i] = b" ".join(fields)
        elif choice == 3:
            lines.insert(j, lines[i])
        else:
            line = lines.pop(i)
            if choice == 4:
                lines.insert(j, line)
    return b"\n".join(lines)


def png_pixels(data: bytes, rng: Rng) -> bytes:
    """A PNG of other pixels under right checksums: a block of one value or of noise, all of them
    nearer or further, or another size."""
    try:
        pixels = np.array(Image.open(io.BytesIO(data), formats=["PNG"]))
    except Exception:  # Pillow on damaged bytes raises what its arithmetic runs into
        return flip(data, rng)
    most = np.iinfo(pixels.dtype).max
    (top, bottom), (left, right) = (np.sort(rng.integers(0, n + 1, 2)) for n in pixels.shape[:2])
    block = pixels[top:bottom, left:right]
    choice = rng.integers(5)
    if choice == 0:
        block[...] = rng.choice([0, 1, most // 2, most])
    elif choice == 1:
        block[...] = rng.integers(0, most, block.shape, pixels.dtype, endpoint=True)
    elif choice == 2:
        pixels = (pixels * rng.choice([0.0, 0.01, 0.5, 1.5])).clip(0, most).astype(pixels.dtype)
    elif choice == 3:
        pixels = pixels.repeat(2, 0).repeat(2, 1)
    else:
        pixels = block if block.size else pixels[:1, :1]
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG")
    return out.getvalue()


def zipped_json(data: bytes, rng: Rng) -> bytes:
    """The JSON inside a gzip file is spoiled."""
    try:
        return gzip.compress(json_values(gzip.decompress(data), rng), mtime=0)
    except (OSError, EOFError):
        return flip(data, rng)


def record_bodies(data: bytes, rng: Rng) -> bytes:
    """The content of one TFRecord is damaged under a checksum that is right."""
    try:
        items = list(tfrecord.records(io.BytesIO(data)))
    except DataError:
        return flip(data, rng)
    bodies = [item.data for item in items if not isinstance(item, DataError)]
    if not bodies:
        return flip(data, rng)
    i = int(rng.integers(len(bodies)))
    bodies[i] = BYTES[rng.integers(len(BYTES))](bodies[i], rng)
    stream = io.BytesIO()
    tfrecord.write(stream, bodies)
    return stream.getvalue()


def parquet_cells(data: bytes, rng: Rng) -> bytes:
    """A column of a Parquet file gets other values, another type, or is missing."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return flip(data, rng)
    if not table.num_columns:
        return flip(data, rng)
    i = int(rng.integers(table.num_columns))
    name, n = table.column_names[i], table.num_rows
    column = table.column(i).to_pylist()
    choice = rng.integers(5)
    if choice == 0:
        table = table.drop_columns([name])
    elif choice == 1 and n:
        column[rng.integers(n)] = None
        table = table.set_column(i, name, pa.array(column, table.schema.field(i).type))
    elif choice == 2:
        table = table.set_column(i, name, pa.nulls(n))
    elif choice == 3:
        table = table.set_column(i, name, pa.array([str(value)[:50] for value in column]))
    else:
        table = table.set_column(i, name, pa.array(rng.choice([0.0, -1.0, np.nan, 1e300], n)))
    out = io.BytesIO()
    pq.write_table(table, out)
    return out.getvalue()


def tar_members(data: bytes, rng: Rng) -> bytes:
    """A member gets a name outside, becomes a link, comes twice, or is damaged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = [(m, (tar.extractfile(m) or io.BytesIO()).read()) for m in tar.getmembers()]
    except (tarfile.TarError, OSError):
        return flip(data, rng)
    i = int(rng.integers(len(members)))
    info, body = members[i]
    choice = rng.integers(5)
    if choice == 0:
        info.name = ["../" + info.name, "/etc/passwd", "a/../../b.jpg", "x" * 90][rng.integers(4)]
    elif choice == 1:
        info.type, info.linkname, body = tarfile.SYMTYPE, "/etc/passwd", b""
    elif choice == 2:
        members.append((info, body))
    elif choice == 3:
        members.pop(i)
    else:
        members[i] = (info, BYTES[rng.integers(len(BYTES))](body, rng))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


FORMATS: dict[str, Mutation] = {
    ".json": json_values,
    ".jsonl": json_lines,
    ".json.gz": zipped_json,
    ".csv": csv_fields,
    ".conf": conf_lines,
    ".png": png_pixels,
    ".parquet": parquet_cells,
    ".tar": tar_members,
    ".tfrecord": record_bodies,
}


def mutate(name: str, data: bytes, rng: Rng) -> tuple[str, bytes]:
    """A damaged copy of a file, and what was done to it; half of the time as its format has it."""
    fitting = [f for suffix, f in FORMATS.items() if name.endswith(suffix)]
    if ".tfrecord-" in name:
        fitting = [record_bodies]
    if not fitting or rng.random() < 0.5:
        fitting = [BYTES[rng.integers(len(BYTES))]]
    how = fitting[-1]
    return how.__name__, how(data, rng)
