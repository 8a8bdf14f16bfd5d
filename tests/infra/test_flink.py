"""The graph on a real Flink cluster, undisturbed, with a TaskManager killed in mid-shard, with its
launcher killed: the table is the local run's, byte for byte. `make test-flink` runs it."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import runners
from infra.demo.corpus import write_corpus
from infra.flink import flags, jars, jobs, worker
from infra.flink.cluster import Cluster
from schemas import UsageError
from tests.command import files_of, unisim
from tests.conftest import BRIDGE
from tests.samples import sample
from tests.terminal import Terminal, moves

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


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three sources, the real Bridge sample among them: some seconds of work."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"), episodes=2)
    corpus["bridge"] = sample(BRIDGE)
    sources = [text for name, path in corpus.items() for text in ("--source", f"{name}={path}")]
    return [*sources, "--shard-mb", "0.3", "--tier", "24x40:raw", "--tier", "192x320:jpeg"]


@pytest.fixture(scope="module")
def local(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The local run's table."""
    out = tmp_path_factory.mktemp("local") / "table"
    unisim("prepare", *given, "--out", out)
    return files_of(out)


@needs_flink
def test_undisturbed_it_gives_the_local_table(cluster, given, local, tmp_path):
    unisim("prepare", *given, "--out", tmp_path / "flink", *on(cluster))
    assert files_of(tmp_path / "flink") == local


@needs_flink
def test_a_task_manager_killed_in_mid_shard_changes_nothing(cluster, given, local, tmp_path):
    out = tmp_path / "flink"
    with Terminal("prepare", *given, "--out", out, *on(cluster)) as job:
        manager, workers = writing(cluster, out, job)
        os.kill(manager, signal.SIGKILL)
        job.end(PATIENCE)
    assert manager not in {process.pid for process in cluster.task_managers}
    assert not [process for process in workers if Path(f"/proc/{process}").exists()]
    assert files_of(out) == local
    moves(job.progress())


@needs_flink
def test_a_killed_launcher_leaves_a_job_that_the_next_one_ends(cluster, given, local, tmp_path):
    out = tmp_path / "flink"
    with Terminal("prepare", *given, "--out", out, *on(cluster)) as job:
        _, workers = writing(cluster, out, job)
        for worker in workers:  # the job is not to end by itself
            os.kill(worker, signal.SIGSTOP)
        servers = children(job.process.pid)
        os.kill(job.process.pid, signal.SIGKILL)
    gone(servers)
    (orphan,) = jobs.running(cluster.address, runners.job_name("prepare", str(out)))
    with Terminal("prepare", *given, "--out", out, *on(cluster)) as job:
        job.wait_for(lambda job: any("it is cancelled" in line for line in job.lines()), PATIENCE)
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        job.end(PATIENCE)
    (said,) = (line for line in job.lines() if "it is cancelled" in line)
    assert f"job {orphan} of the same name" in said
    assert any("shards are done from before" in line for line in job.lines())
    assert files_of(out) == local


def writing(cluster: Cluster, out: Path, job: Terminal) -> tuple[int, list[int]]:
    """Waits until a shard is finished and another one is being written; gives the TaskManager whose
    Python worker does it, and all of its workers."""
    end = time.monotonic() + PATIENCE
    while job.process.poll() is None and time.monotonic() < end:
        for manager in cluster.task_managers if list(out.glob("_work/receipts/*.json")) else ():
            workers = children(manager.pid)
            if any(opens(worker, out) for worker in workers):
                return manager.pid, workers
        time.sleep(0.005)
    raise AssertionError("no worker of a TaskManager was seen writing a shard")


def gone(processes: list[int]) -> None:
    """Waits until they have ended."""
    assert processes
    end = time.monotonic() + PATIENCE
    while left := [process for process in processes if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < end, left
        time.sleep(0.05)


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
    given += ["--environment_cache_millis=1", "--job_server_java_launcher=j", "--job_name=b"]
    assert flags.complete(given, "a") == given


def test_what_is_missing_is_filled_in():
    options = dict(
        flag.removeprefix("--").split("=", 1)
        for flag in flags.complete(["--flink_master=[local]"], "a")
    )
    assert options["environment_type"] == "PROCESS"
    command = json.loads(options["environment_config"])["command"]
    assert os.access(command, os.X_OK)
    assert os.access(options["job_server_java_launcher"], os.X_OK)
    assert options["job_name"] == "a"


def test_a_cluster_that_does_not_answer_is_one_line():
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:9: no TaskManager answers"):
        flags.complete(["--flink_master=127.0.0.1:9"], "a")


def test_the_worker_is_told_what_the_task_manager_says():
    info = worker.provision.ProvisionInfo(runner_capabilities=["a", "b"])
    info.control_endpoint.url = "127.0.0.1:1"
    info.pipeline_options["beam:option:parallelism:v1"] = "2"
    told = worker.environment("7", info)
    assert told["WORKER_ID"] == "7" and told["RUNNER_CAPABILITIES"] == "a b"
    assert 'url: "127.0.0.1:1"' in told["CONTROL_API_SERVICE_DESCRIPTOR"]
    assert json.loads(told["PIPELINE_OPTIONS"]) == {"beam:option:parallelism:v1": "2"}
