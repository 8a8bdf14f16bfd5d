"""The Beam stage and SIGKILL: nothing is lost, no byte changes, the table is whole throughout."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter

from infra.runners import pipeline_options
from pipelines import commit, embed
from pipelines.audit import Opened, audit
from schemas import Manifest
from schemas.table import text_files
from tests.command import ROOT, files_of
from tests.pipelines.embed_in_shards import NAME, job_of

SHARDS = 120


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("".join(f"push block {i}{' and wait' * (i % 30)}\n" for i in range(600)))
    return path


@pytest.fixture(scope="module")
def straight(tmp_path_factory, fake_table, texts) -> Path:
    """The table of an undisturbed run by two workers."""
    out = tmp_path_factory.mktemp("straight") / "table"
    shutil.copytree(fake_table, out)
    job = job_of(str(out), str(texts), SHARDS)
    runner, options = pipeline_options("FnApiRunner", 2, SHARDS, [], "embed")
    pipeline = beam.Pipeline(runner=runner, options=options)
    embed.build(pipeline, job)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("text"))["counters"]
    counts = {counter.key.metric.name: counter.committed for counter in found}
    assert counts["encoders_loaded"] == 2, "one for each worker process"
    assert counts["num_inferences"] <= SHARDS < counts["added"]
    superseded_ones_are_no_violation(out)
    commit.tidy(str(out), NAME)
    return out


def superseded_ones_are_no_violation(out: Path) -> None:
    """A job that is killed after its commit leaves its work, which the next one clears away."""
    assert (out / "_work/embed" / NAME).is_dir()
    assert list(audit(Opened(str(out)))) == []


def begin(out: Path, texts: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.pipelines.embed_in_shards", out, texts, SHARDS, workers]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=ROOT,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_receipts(process: subprocess.Popen, out: Path, count: int) -> list[Path]:
    deadline = time.monotonic() + 120
    while True:
        found = list(out.glob(f"_work/embed/{NAME}/[0-9]*.json"))
        if len(found) >= count:
            return found
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)


def workers_of(process: subprocess.Popen) -> list[int]:
    """Process ids of the launcher's children."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True)
    return [int(pid) for pid in found.stdout.split()]


def test_a_worker_killed_in_the_middle_changes_no_byte(straight, texts, fake_table, tmp_path):
    out = tmp_path / "table"
    shutil.copytree(fake_table, out)
    process = begin(out, texts, workers=2)
    wait_for_receipts(process, out, 3)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert "a worker process died; going on with what is left" in said
    assert "Traceback" not in said
    assert files_of(out) == files_of(straight)


def test_a_job_killed_in_the_middle_goes_on(straight, texts, fake_table, tmp_path):
    out = tmp_path / "table"
    shutil.copytree(fake_table, out)
    process = begin(out, texts, workers=1)
    wait_for_receipts(process, out, 10)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert (out / "manifest.json").read_bytes() == (fake_table / "manifest.json").read_bytes()
    assert list(audit(Opened(str(out)))) == [], "the table is as it was"
    done = [Path(path.stem) for path in out.glob(f"_work/embed/{NAME}/[0-9]*.json")]
    files = [
        path for k in done for path in out.glob(f"text/{NAME}/embeddings-*.array_record-{k}-of-*")
    ]
    assert len(files) == len(done) >= 10
    times = {path: path.stat().st_mtime_ns for path in files}
    process = begin(out, texts, workers=1)
    said = process.communicate(timeout=240)[1]
    assert process.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in files} == times
    assert files_of(out) == files_of(straight)


def test_at_every_moment_of_the_commit_the_table_is_whole(straight, fake_table, tmp_path):
    """The manifest is the one file that is replaced: all else is only added before and deleted
    after it."""
    out = tmp_path / "table"
    shutil.copytree(straight, out)
    now = Manifest.from_json((out / "manifest.json").read_text()).encoder(NAME)
    before = Manifest.from_json((fake_table / "manifest.json").read_text())
    assert not set(text_files(now)) & set(before.files)
    work = out / "_work/embed" / NAME
    work.mkdir(parents=True)
    (work / "00000.json").write_text("{}")
    shutil.copy(fake_table / "manifest.json", out)
    (out / f"text/{NAME}/.tmp-1-keys.npy").write_bytes(b"")
    (out / ".tmp-2-manifest.json").write_bytes(b"{")
    assert list(audit(Opened(str(out)))) == []
    shutil.copy(straight / "manifest.json", out)
    commit.tidy(str(out), NAME)
    assert files_of(out) == files_of(straight)
