"""Records read in place are the bytes that ArrayRecord wrote, whatever their sizes, or refused."""

import pickle

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from schemas import UsageError
from schemas.table import WRITER_OPTIONS
from trainer.data.plain import PlainFile
from trainer.data.records import Records

BLOCK = 65536


def _write(path, records, options=WRITER_OPTIONS):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


@pytest.mark.parametrize(
    ("count", "smallest", "largest"),
    [
        (0, 0, 0),
        (1, 0, 0),
        (2000, 0, 300),
        (300, 127, 128),
        (50, 16383, 16384),
        (200, 12288, 12288),
        (400, BLOCK - 200, BLOCK + 50),
        (3, 1, 40 * BLOCK),
    ],
)
def test_records_of_any_size_come_back_in_any_order(tmp_path, count, smallest, largest):
    rng = np.random.default_rng([count, largest])
    records = [rng.bytes(int(n)) for n in rng.integers(smallest, largest + 1, count)]
    path = _write(tmp_path / "file", records)
    order = rng.permutation(count).tolist()
    assert PlainFile(path).read(order) == [records[i] for i in order]
    assert pickle.loads(pickle.dumps(Records(in_place=True))).read(path, order) == [
        records[i] for i in order
    ]


@pytest.mark.parametrize(
    "options", ["group_size:1", "group_size:2,uncompressed", "group_size:1,uncompressed,transpose"]
)
def test_files_of_another_layout_are_left_to_the_library(tmp_path, options):
    records = [bytes([i]) * 300 for i in range(10)]
    path = _write(tmp_path / "file", records, options)
    with pytest.raises(ValueError):
        PlainFile(path)
    assert Records(in_place=True).read(path, [7, 0, 9]) == [records[i] for i in (7, 0, 9)]


def test_damage_is_a_usage_error_that_names_the_file(tmp_path):
    path = _write(tmp_path / "file", [bytes([i]) * 3000 for i in range(100)])
    data = (tmp_path / "file").read_bytes()
    with pytest.raises(UsageError, match=r"record 100 cannot be read.*unisim audit"):
        Records(in_place=True).read(path, [100])
    for start, stop in ((100_000, 200_000), (0, len(data)), (len(data) - BLOCK, len(data))):
        (tmp_path / "file").write_bytes(data[:start] + bytes(stop - start) + data[stop:])
        with pytest.raises(UsageError, match=r"file: record .* cannot be read"):
            Records(in_place=True).read(path, range(100))
    for size in (0, 10, len(data) - BLOCK, len(data) - 1):
        (tmp_path / "file").write_bytes(data[:size])
        with pytest.raises(UsageError, match=r"file: record .* cannot be read"):
            Records(in_place=True).read(path, range(100))
    with pytest.raises(UsageError, match="cannot be read"):
        Records(in_place=True).read(str(tmp_path / "nowhere"), [0])


def test_no_bytes_make_it_fail_in_another_way(tmp_path):
    path = _write(tmp_path / "file", [bytes([i]) * 700 for i in range(50)])
    data = np.frombuffer((tmp_path / "file").read_bytes(), np.uint8)
    rng = np.random.default_rng(5)
    places = [*range(len(data) - BLOCK, len(data) - BLOCK + 160), *range(0, len(data), 97)]
    for place in places:
        damaged = data.copy()
        damaged[place] ^= rng.integers(1, 256)
        (tmp_path / "file").write_bytes(damaged.tobytes())
        try:
            found = PlainFile(path).read(range(50))
        except ValueError:
            continue
        assert [len(record) for record in found] == [700] * 50
