"""Laws of `prepare`: same bytes whatever the workers and the crashes; nothing lost in silence."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pyarrow.parquet as pq
import pytest

from tests.command import ROOT, files_of, unisim

TIERS = ["--tier", "48x80:jpeg"]


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory, fake_flags):
    out = tmp_path_factory.mktemp("one") / "table"
    unisim("prepare", *fake_flags, *TIERS, "--out", out, "--workers", 1)
    return out


def test_one_and_two_workers_give_the_same_bytes(fake_table, one_worker):
    a, b = files_of(fake_table), files_of(one_worker)
    assert sorted(a) == sorted(b)
    assert [name for name in a if a[name] != b[name]] == []
    assert sum(name.startswith("index.parquet") for name in a) > 3, "wanted several shards"


def test_a_second_run_does_nothing(one_worker, fake_flags):
    before = {p: p.stat().st_mtime_ns for p in one_worker.rglob("*")}
    result = unisim("prepare", *fake_flags, *TIERS, "--out", one_worker)
    assert "complete already" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in one_worker.rglob("*")} == before


def test_a_moved_corpus_gives_the_same_bytes(tmp_path, fakes, fake_table, fake_flags):
    moved = []
    for flag in fake_flags:
        name, equals, _ = flag.partition("=")
        if equals:
            shutil.copytree(fakes[name], tmp_path / name / "elsewhere")
            flag = f"{name}={tmp_path / name / 'elsewhere'}"
        moved.append(flag)
    unisim("prepare", *moved, *TIERS, "--out", tmp_path / "out", "--workers", 2)
    a, b = files_of(fake_table), files_of(tmp_path / "out")
    plans = [json.loads(x.pop("plan.json")) for x in (a, b)]
    manifests = [json.loads(x.pop("manifest.json")) for x in (a, b)]
    assert a == b
    assert plans[0] != plans[1] and manifests[0]["plan"] == manifests[1]["plan"]


@pytest.mark.parametrize(("shards_before_kill", "workers_too"), [(1, True), (3, False)])
def test_killed_in_the_middle_it_ends_with_the_same_bytes(
    tmp_path, fake_flags, fake_table, shards_before_kill, workers_too
):
    out = tmp_path / "table"
    command = [sys.executable, "-m", "infra.cli", "prepare", *fake_flags, *TIERS, "--out", out]
    process = subprocess.Popen(
        [*command, "--workers", "1"], cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("_work/receipts/[!.]*.json"))) < shards_before_kill:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    if workers_too:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    assert not (out / "manifest.json").exists()
    unisim("audit", out, code=2)
    result = unisim("prepare", *fake_flags, *TIERS, "--out", out)
    assert "are done from before" in result.stderr
    assert files_of(out) == files_of(fake_table)


def test_every_loss_is_written_down_with_its_place(fake_table):
    letters = pq.read_table(fake_table / "dead_letters.parquet").to_pylist()
    manifest = json.loads((fake_table / "manifest.json").read_text())
    assert {letter["dataset"] for letter in letters} == {d["name"] for d in manifest["datasets"]}
    for letter in letters:
        assert letter["reason"] and letter["stage"] and letter["unit"] and letter["source_uri"]
    for dataset in manifest["datasets"]:
        mine = [letter for letter in letters if letter["dataset"] == dataset["name"]]
        assert dataset["dead_letters"] == sum(letter["episodes"] for letter in mine)
        assert dataset["declared_losses"] == sum(not letter["episodes"] for letter in mine)
        assert dataset["losses"] == Counter(letter["stage"] for letter in mine)
        assert dataset["chunks"] > 0


def test_above_the_budget_it_fails_and_keeps_what_it_wrote(tmp_path, fakes):
    flags = ["--source", f"bridge={fakes['bridge']}", "--out", tmp_path / "out"]
    result = unisim("prepare", *flags, code=1)
    assert "could not be used, the budget is 1.0%" in result.stderr
    assert not (tmp_path / "out/manifest.json").exists()
    assert list((tmp_path / "out").glob("frames-24x40/bridge/1.0.0/*.array_record*"))
    assert pq.read_table(tmp_path / "out/dead_letters.parquet").num_rows > 0
    unisim("prepare", *flags, "--error-budget", "0.9")
    unisim("audit", tmp_path / "out")


def test_lower_rates_compose_the_motion(tmp_path, fakes):
    flags = ["--source", f"bridge={fakes['bridge']}", "--error-budget", "1"]
    unisim("prepare", *flags, "--out", tmp_path / "all")
    unisim("prepare", *flags, "--out", tmp_path / "half", "--fps", "bridge=2.5")
    unisim("audit", tmp_path / "half")
    frames = [
        sum(pq.read_table(tmp_path / name / "index.parquet").column("num_frames").to_pylist())
        for name in ("all", "half")
    ]
    assert 0.45 < frames[1] / frames[0] < 0.6
