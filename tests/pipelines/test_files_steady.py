"""Remote files that fail now and then; files that change; disks that are full."""

import errno
import functools
import io
import os
import random
import resource
import signal

import apache_beam as beam
import pytest
from apache_beam.io.filesystem import BeamIOError
from apache_beam.metrics.metric import MetricsFilter

from pipelines import files, steady
from pipelines.episode import Unit
from pipelines.watch import Changed, watched
from schemas import DataError, UsageError
from tests.pipelines import flaky


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    """Waits of a thousandth of their length."""
    monkeypatch.setattr(steady, "_FIRST", 1e-4)


def test_reading_goes_on_where_it_failed(tmp_path):
    data = random.Random(0).randbytes(300_000)
    (tmp_path / "a").write_bytes(data)
    state = random.getstate()
    before = flaky.FAULTS.raised
    for block in (1000, 77_777, -1):
        with files.open_read(f"flaky://{tmp_path}/a") as f:
            assert b"".join(iter(functools.partial(f.read, block), b"")) == data
            assert f.seek(-10, io.SEEK_END) == len(data) - 10 and f.read() == data[-10:]
            assert f.seek(5) == 5 and f.read(5) == data[5:10] and f.tell() == 10
    for _ in range(50):
        assert files.read(f"flaky://{tmp_path}/a") == data
    assert flaky.FAULTS.raised - before > 10
    assert random.getstate() == state, "the waits draw from a generator that others seed"


def test_every_operation_is_tried_again(tmp_path):
    root = f"flaky://{tmp_path}"
    before = flaky.FAULTS.raised
    for i in range(30):
        path = f"{root}/folder [{i}]/x*.txt"
        files.write(path, b"abc" * i)
        assert files.exists(path) and files.exists(f"{root}/folder [{i}]")
        assert files.size(path) == 3 * i == files.stamp(path).size  # pyright: ignore
        assert files.glob(f"{root}/folder [{i}]", "*") == [(path, 3 * i)]
        stamps = files.stamps(root, [path, f"{root}/folder [{i}]"])
        assert stamps == {path: str(files.stamp(path))}
        with files.local_copy(path) as local, open(local, "rb") as f:
            assert f.read() == b"abc" * i
        files.delete(path)
        assert not files.exists(path)
        files.write(path, b"")
        files.delete_tree(f"{root}/folder [{i}]")
        assert not files.exists(f"{root}/folder [{i}]")
    assert flaky.FAULTS.raised - before > 10
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_retries_are_counted(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100_000))
    before = flaky.FAULTS.raised
    pipeline = beam.Pipeline(runner="FnApiRunner")
    _ = pipeline | beam.Create([f"flaky://{tmp_path}/a"] * 40) | beam.Map(files.read)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_name("retries"))["counters"]
    assert [counter.committed for counter in found] == [flaky.FAULTS.raised - before]
    assert flaky.FAULTS.raised > before


class Forbidden(Exception):
    code = 403


@pytest.mark.parametrize(
    ("error", "tries", "wanted"),
    [
        (OSError(errno.EIO, "broken"), steady.TRIES, UsageError),
        (flaky.Unavailable("busy"), steady.TRIES, UsageError),
        (BeamIOError("no", {"a": ConnectionError("lost")}), steady.TRIES, UsageError),
        (FileNotFoundError("a"), 1, FileNotFoundError),
        (BeamIOError("no", {"a": FileNotFoundError("a")}), 1, FileNotFoundError),
        (PermissionError("a"), 1, PermissionError),
        (Forbidden("a"), 1, Forbidden),
        (BeamIOError("no", {"a": Forbidden("a")}), 1, BeamIOError),
        (BeamIOError("no", {("a", "b"): 403}), 1, BeamIOError),
        (BeamIOError("no", {("a", "b"): 503}), steady.TRIES, UsageError),
        (BeamIOError("no", {("a", "b"): 404}), 1, FileNotFoundError),
        (ZeroDivisionError(), 1, ZeroDivisionError),
    ],
)
def test_only_what_may_pass_is_tried_again_and_not_for_ever(error, tries, wanted):
    made = []

    def action():
        made.append(1)
        raise error

    with pytest.raises(wanted):
        steady.again(action, "flaky://a")
    assert len(made) == tries


def unit_of(path, stamp: str = "") -> Unit:
    values = {"split": None, "cost": 1, "episodes": 1, "frames": 1, "version": "1.0.0"}
    return Unit(id="a", uri=str(path), stamp=stamp, **values)


def test_a_file_that_is_no_longer_the_planned_one_is_not_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    unit = unit_of(path, str(files.stamp(str(path))))
    with watched(unit, None):
        files.read(str(path))
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match="written again, with the same size"), watched(unit, None):
        raise AssertionError
    path.write_bytes(bytes(12))
    said = r"a has changed since planned \(size 10 then, 12 now\)"
    with pytest.raises(DataError, match=said) as error, watched(unit, None):
        raise AssertionError
    assert (error.value.stage, error.value.uri) == ("read", str(path))


def test_of_a_folder_nothing_written_after_the_plan_is_read(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).write_bytes(b"x")
    os.utime(tmp_path / "old", (1, 1))
    planned = files.stamp(str(tmp_path / "old"))
    with watched(unit_of(tmp_path), planned):
        assert files.read(str(tmp_path / "old")) == b"x"
        for use in (files.open_read, files.open_planned, files.local_copy):
            with pytest.raises(DataError, match="new has changed since planned"):
                use(str(tmp_path / "new")).__enter__()
        with pytest.raises(FileNotFoundError):
            files.read(str(tmp_path / "absent"))
    assert files.read(str(tmp_path / "new")) == b"x", "outside it nothing is watched"


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    for change in (lambda: path.write_bytes(bytes(11)), path.unlink):
        with (
            pytest.raises(Changed, match="changed while it was read"),
            watched(unit_of(tmp_path), None),
        ):
            files.read(str(path))
            change()


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    """A limit on the size of files is what every machine can offer."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UsageError) as error:
            files.write(str(tmp_path / "a"), bytes(20_000))
        files.write(str(tmp_path / "b"), bytes(5_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(error.value).startswith(f"{tmp_path}: File too large; make room there and run")
    assert os.listdir(tmp_path) == ["b"]
