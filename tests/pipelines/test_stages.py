"""What making a shard takes: measured, added up, passed on. Calls and bytes are in the manifest,
seconds only beside the table."""

import dataclasses
import json
import time

import pytest

from pipelines import commit, counted, plan, prepare, sources
from pipelines.job import load_manifest
from pipelines.stages import STAGES, Stages, add_timings, load_timings
from pipelines.write import write_shard
from schemas import Manifest, Tier, UsageError
from tests.command import files_of, unisim
from tests.conftest import BRIDGE
from tests.samples import sample

PIXELS = "24x40:raw"


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
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b"), "its manifest included"
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
    [dataset] = load_manifest(str(tmp_path / "a")).datasets
    assert dataset.stages == total.counts()
    took = load_timings(str(tmp_path / "a"))["bridge"]
    assert took == {name: pytest.approx(total.by_name[name].seconds, abs=1e-3) for name in STAGES}


def test_timings_are_added_to_and_go_with_their_dataset(tmp_path):
    out, into = str(tmp_path), str(tmp_path / "_work/next")
    some, more = Stages(), Stages()
    some.by_name["decode"].seconds, more.by_name["decode"].seconds = 1.5, 0.25
    assert load_timings(out) == {}
    add_timings(out, out, {"a": some, "b": some}, new=True)
    add_timings(out, out, {"a": some, "b": some}, new=True)
    assert load_timings(out)["a"] == dict.fromkeys(STAGES, 0.0) | {"decode": 1.5}
    add_timings(out, into, {"a": more, "c": some}, new=False)
    assert load_timings(out).keys() == {"a", "b"}, "until the change is in its place"
    found = {name: took["decode"] for name, took in load_timings(into).items()}
    assert found == {"a": 1.75, "c": 1.5}


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"a": {"decode": "x"}}'])
def test_damaged_timings_are_one_line(tmp_path, text):
    (tmp_path / "timings.json").write_text(text)
    with pytest.raises(UsageError, match=r"timings\.json: no timings .*delete it"):
        load_timings(str(tmp_path))


def test_what_shards_took_before_a_kill_counts(tmp_path):
    """One shard is finished, then the run; a table of an older program says that it knows less."""
    path = sources.get("bridge").fake(tmp_path / "raw", 0, traps=False)
    out = tmp_path / "table"
    flags = ["--source", f"bridge={path}", "--out", out, "--shard-mb", "0.02", "--workers", 1]
    made = plan.make([("bridge", str(path))], tiers=[Tier.parse(PIXELS)], fps={}, shard_mb=0.02)
    plan.save(made, str(out))
    first = write_shard(next(prepare.tasks(made, str(out))))
    slow = first.stages | {"decode": first.stages["decode"] | {"seconds": 1000.0}}
    dataclasses.replace(first, stages=slow).save(str(out))
    unisim("prepare", *flags, "--tier", PIXELS)
    assert 1000 < load_timings(str(out))["bridge"]["decode"] < 1100
    manifest = load_manifest(str(out))
    [dataset] = manifest.datasets
    assert dataset.stages["decode"].calls == dataset.frames
    shards = counted.load(str(out), manifest)
    assert [r.stages for r in shards if r.shard == 0] == [
        {name: {"calls": s["calls"], "bytes": s["bytes"]} for name, s in first.stages.items()}
    ]
    old = [dataclasses.replace(shards[0], stages={}), *shards[1:]]
    assert len(old) > 1 and commit.describe(made, {"bridge": old})[0].stages == {}
    value = json.loads((out / "manifest.json").read_text())
    del value["datasets"][0]["stages"]
    assert Manifest.from_json(json.dumps(value)).datasets[0].stages == {}
