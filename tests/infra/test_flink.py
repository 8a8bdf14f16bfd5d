"""The graph on a real Flink cluster, undisturbed and with a TaskManager killed in mid-shard: the
table is the local run's, byte for byte. `make test-flink` runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.demo.corpus import write_corpus
from infra.flink import flags, jars, worker
from infra.flink.cluster import Cluster
from schemas import UsageError
from tests.command import ROOT, files_of, unisim
from tests.conftest import BRIDGE
from tests.samples import sample

needs_flink = pytest.mark.skipif(
    "UNISIM_FLINK" not in os.environ,
    reason="a Flink cluster wants Java, and Maven to fetch it: `make test-flink` runs this",
)
PATIENCE = 240.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("flink") / "run") as running:
        yield running


def on(cluster: Cluster) -> list[object]:
    """The flags that a user gives."""
    jar = jars.job_server_jar()
    master = f"--flink_master={cluster.address}"
    return ["--runner", "FlinkRunner", master, f"--flink_job_server_jar={jar}"]


@needs_flink
def test_the_demo_corpus_gives_the_local_table(cluster, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", episodes=40)
    given = [text for name, path in corpus.items() for text in ("--source", f"{name}={path}")]
    given += ["--shard-mb", "0.5"]
    unisim("prepare", *given, "--out", tmp_path / "local")
    unisim("prepare", *given, "--out", tmp_path / "flink", *on(cluster))
    assert files_of(tmp_path / "flink") == files_of(tmp_path / "local")


@needs_flink
def test_a_task_manager_killed_in_mid_shard_changes_nothing(cluster, tmp_path):
    given = ["--source", f"bridge={sample(BRIDGE)}", "--shard-mb", "0.3"]
    given += ["--tier", "24x40:raw", "--tier", "192x320:jpeg"]
    unisim("prepare", *given, "--out", tmp_path / "local")
    out = tmp_path / "flink"
    command = [sys.executable, "-m", "infra.cli", "prepare", *given, "--out", out, *on(cluster)]
    with subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE) as job:
        try:
            killed, orphans = kill_one_that_writes(cluster, out, job)
            _, said = job.communicate(timeout=PATIENCE)
        finally:
            job.send_signal(signal.SIGINT)  # if it still runs: it stops its job server
    assert job.returncode == 0, said.decode()
    assert killed not in {process.pid for process in cluster.task_managers}
    assert not [process for process in orphans if Path(f"/proc/{process}").exists()]
    assert files_of(out) == files_of(tmp_path / "local")


def kill_one_that_writes(
    cluster: Cluster, out: Path, job: subprocess.Popen[bytes]
) -> tuple[int, list[int]]:
    """Kills a TaskManager whose Python worker has a file of the table open; gives its number and
    those of its workers."""
    end = time.monotonic() + PATIENCE
    while job.poll() is None and time.monotonic() < end:
        for manager in cluster.task_managers:
            workers = children(manager.pid)
            if any(opens(worker, out) for worker in workers):
                os.kill(manager.pid, signal.SIGKILL)
                return manager.pid, workers
        time.sleep(0.005)
    raise AssertionError("no worker of a TaskManager was seen writing a shard")


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        found += map(int, path.read_text().split())
    return found


def opens(process: int, folder: Path) -> bool:
    """Whether a process has a file below a folder open."""
    try:
        links = [os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:  # it has ended, or closed one meanwhile
        return False
    return any(link.startswith(f"{folder}/") for link in links)


def test_flags_of_the_user_stand():
    given = ["--flink_master=h:1", "--parallelism=3", "--environment_type=EXTERNAL"]
    assert flags.complete(given) == given


def test_what_is_missing_is_filled_in():
    options = dict(
        flag.removeprefix("--").split("=", 1) for flag in flags.complete(["--flink_master=[local]"])
    )
    assert options["environment_type"] == "PROCESS"
    command = json.loads(options["environment_config"])["command"]
    assert os.access(command, os.X_OK)


def test_a_cluster_that_does_not_answer_is_one_line():
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:9: no TaskManager answers"):
        flags.complete(["--flink_master=127.0.0.1:9"])


def test_the_worker_is_told_what_the_task_manager_says():
    info = worker.provision.ProvisionInfo(runner_capabilities=["a", "b"])
    info.control_endpoint.url = "127.0.0.1:1"
    info.pipeline_options["beam:option:parallelism:v1"] = "2"
    told = worker.environment("7", info)
    assert told["WORKER_ID"] == "7" and told["RUNNER_CAPABILITIES"] == "a b"
    assert 'url: "127.0.0.1:1"' in told["CONTROL_API_SERVICE_DESCRIPTOR"]
    assert json.loads(told["PIPELINE_OPTIONS"]) == {"beam:option:parallelism:v1": "2"}
