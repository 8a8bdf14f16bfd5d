"""TensorBoard's files hold the curves of a run, also of one that was resumed."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from trainer.train.board import FOLDER, Board


def events(run):
    """All events, file after file: records of a length, its checksum, the bytes, their checksum."""
    found = []
    for path in sorted((run / FOLDER).iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data = path.read_bytes()
        while data:
            [size] = struct.unpack_from("<Q", data)
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[12 + size + 4 :]
    return found


def test_curves_are_read_back_and_a_resumed_run_hides_what_it_does_again(tmp_path):
    first = Board(tmp_path, 0)
    for step in (1, 2, 3):
        first.write(step, {"train/loss": 1 / step, "train/grad_norm": 2.0 * step})
    first.close()
    second = Board(tmp_path, 2)
    second.write(3, {"train/loss": 0.25})
    second.close()
    found = events(tmp_path)
    points = [(e.step, v.tag, v.simple_value) for e in found for v in e.summary.value]
    assert points == [
        (1, "train/loss", 1.0),
        (1, "train/grad_norm", 2.0),
        (2, "train/loss", 0.5),
        (2, "train/grad_norm", 4.0),
        (3, "train/loss", pytest.approx(1 / 3)),
        (3, "train/grad_norm", 6.0),
        (3, "train/loss", 0.25),
    ]
    starts = [e for e in found if e.session_log.status == 1]
    assert [e.step for e in starts] == [3]  # SessionLog.START: what is from there on is purged
