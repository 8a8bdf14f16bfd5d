"""Where the time of a shard goes: measured, added up, passed on, and in no file of the table."""

import json
import time

import pytest

from pipelines.stages import STAGES, Stages
from tests.command import files_of, unisim
from tests.conftest import BRIDGE
from tests.samples import sample


def test_time_goes_to_the_stage_that_takes_it():
    stages = Stages()

    def slow():
        for i in range(3):
            time.sleep(0.02)
            yield i

    for _ in stages.reading(slow()):
        with stages.timed("decode") as stage:
            stage.bytes += 7
    read, decode = stages.by_name["read"], stages.by_name["decode"]
    assert read.seconds > 0.06 > decode.seconds
    assert (decode.calls, decode.bytes, read.calls) == (3, 21, 4)
    with pytest.raises(KeyError), stages.timed("encode"):
        raise KeyError
    assert stages.by_name["encode"].calls == 1, "what fails takes time too"


def test_shards_are_added_up():
    one = Stages({"read": {"seconds": 1.0, "calls": 2, "bytes": 3}})
    total = Stages()
    total.add(one)
    total.add(Stages(one.to_dict()))
    assert total.to_dict()["read"] == {"seconds": 2.0, "calls": 4, "bytes": 6}
    assert str(total).startswith("read 100%, decode 0%") and "of 2.0 s" in str(total)
    assert str(Stages()).endswith("of 0.0 s in workers")


def test_a_profile_is_written_beside_the_table_and_changes_no_byte(tmp_path):
    source = ["--source", f"bridge={sample(BRIDGE)}", "--shard-mb", "1", "--workers", 1]
    said = unisim(
        "prepare", *source, "--out", tmp_path / "a", "--profile", tmp_path / "profile.json"
    ).stderr
    unisim("prepare", *source, "--out", tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    found = json.loads((tmp_path / "profile.json").read_text())
    total = Stages(found["stages"])
    assert str(total) in said
    assert all(total.by_name[name].seconds > 0 for name in STAGES)
    assert total.by_name["decode"].calls == 750, "a frame is decoded once"
    written = total.by_name["write"].bytes
    assert total.by_name["encode"].bytes == written > 750 * 24 * 40 * 3
    added = Stages()
    for shard in found["shards"]["bridge"]:
        del shard["shard"]
        added.add(Stages(shard))
    assert added.to_dict()["write"]["bytes"] == written
