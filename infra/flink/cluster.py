"""A standalone Flink cluster on this machine: a JobManager, TaskManagers, a process each.

    python -m infra.flink.cluster up      # until it is told to end, by Ctrl-C or by
    python -m infra.flink.cluster down

A TaskManager that dies is replaced, as the supervisor of a real cluster would. All addresses are of
the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

from infra.flink import jars
from schemas import UsageError

HOST = "127.0.0.1"
RUN = jars.CACHE / "run"
_JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
_TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
_PATIENCE = 120.0  # seconds until all TaskManagers must have come
# what Flink's own start scripts open to it on Java 17
_EXPORTS = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry")
_OPENS = ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util", "util.concurrent")


class Cluster:
    """A cluster while a `with` block runs.

    Args:
        folder: where configuration, logs and temporary files go; those of an earlier one go first.
        port: of the REST interface; 0 for a free one. Raises UsageError if it is taken.
        task_managers: how many, each with one slot and about 1.2 GB.

    Attributes:
        address: `host:port`, what `--flink_master` takes.
        task_managers: their processes; one that dies gives its place to another.
    """

    def __init__(self, folder: Path = RUN, *, port: int = 0, task_managers: int = 2):
        self.folder = folder
        self.address = f"{HOST}:{_free_port(port)}"
        self.task_managers: list[subprocess.Popen[bytes]] = []
        self._wanted = task_managers
        self._stop = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Cluster:
        if not shutil.which("java"):
            raise UsageError("java is not there; Flink is a Java program")
        jars.fetch()
        self._clear()
        (self.folder / "config.yaml").write_text(config(self.address, self.folder / "tmp"))
        self._job_manager = self._start("jobmanager", _JOB_MANAGER, 512)
        try:
            # a TaskManager that comes too early sleeps for ten seconds
            self._wait(0)
            for _ in range(self._wanted):
                self.task_managers.append(self._task_manager())
            self._wait(self._wanted)
        except BaseException:
            self._end()
            raise
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._keeper.join()
        self._end()

    def _clear(self) -> None:
        """Away with what an earlier cluster has left."""
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "tmp").mkdir(parents=True)
        for log in self.folder.glob("*manager-*.log"):
            log.unlink()

    def _task_manager(self) -> subprocess.Popen[bytes]:
        return self._start("taskmanager", _TASK_MANAGER, 448)

    def _start(self, name: str, main: str, heap_mb: int) -> subprocess.Popen[bytes]:
        exports = [f"--add-exports={name}=ALL-UNNAMED" for name in _EXPORTS]
        opens = [f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENS]
        memory = [f"-Xmx{heap_mb}m", "-XX:MaxMetaspaceSize=256m", "-XX:MaxDirectMemorySize=256m"]
        path = ["-cp", f"{jars.CACHE / jars.CLUSTER}/*"]
        command = ["java", *memory, *exports, *opens, *path, main, "--configDir", self.folder]
        number = len(list(self.folder.glob(f"{name}*.log")))
        with open(self.folder / f"{name}-{number}.log", "wb") as log:
            # a session of its own: Ctrl-C is for this process, which ends the others in order
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _wait(self, wanted: int) -> None:
        """Until the JobManager answers and has so many slots."""
        end = time.monotonic() + _PATIENCE
        while (found := slots(self.address)) is None or found < wanted:
            dead = [p for p in (self._job_manager, *self.task_managers) if p.poll() is not None]
            if dead or time.monotonic() > end:
                raise UsageError(f"the Flink cluster does not start; see the logs in {self.folder}")
            time.sleep(0.2)

    def _keep(self) -> None:
        while not self._stop.wait(0.5):
            for i, process in enumerate(self.task_managers):
                if process.poll() is not None:
                    self.task_managers[i] = self._task_manager()

    def _end(self) -> None:
        processes = [*self.task_managers, self._job_manager]
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def config(address: str, temporary: Path) -> str:
    """The cluster's `config.yaml`."""
    values = {
        "jobmanager.rpc.address": HOST,
        "jobmanager.rpc.port": _free_port(),
        "jobmanager.bind-host": HOST,
        "rest.address": HOST,
        "rest.bind-address": HOST,
        "rest.port": address.rpartition(":")[2],
        "taskmanager.host": HOST,
        "taskmanager.bind-host": HOST,
        "taskmanager.numberOfTaskSlots": 1,
        "taskmanager.cpu.cores": 1.0,
        "taskmanager.memory.framework.heap.size": "128m",
        "taskmanager.memory.framework.off-heap.size": "128m",
        "taskmanager.memory.task.heap.size": "320m",
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.managed.size": "128m",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.jvm-metaspace.size": "256m",
        "taskmanager.memory.jvm-overhead.min": "128m",
        "taskmanager.memory.jvm-overhead.max": "128m",
        # a dead TaskManager is to be noticed within seconds
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 10000,
        # and a job is to go on without it: Beam's runner says nothing of restarts in batch jobs
        "restart-strategy.type": "fixed-delay",
        "restart-strategy.fixed-delay.attempts": 20,
        "restart-strategy.fixed-delay.delay": "1 s",
        "io.tmp.dirs": json.dumps(str(temporary)),
    }
    return "".join(f"{name}: {value}\n" for name, value in values.items())


def slots(address: str) -> int | None:
    """How many task slots a cluster has; None if it does not answer, or not yet."""
    url = address if "://" in address else f"http://{address}"
    try:
        with urllib.request.urlopen(f"{url}/overview", timeout=10) as answer:
            return int(json.load(answer)["slots-total"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _free_port(wanted: int = 0) -> int:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((HOST, wanted))
        except OSError as e:
            raise UsageError(f"port {wanted} is taken, by another cluster perhaps") from e
        return s.getsockname()[1]


def _up(folder: Path, port: int) -> None:
    """Runs a cluster until a signal ends it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Cluster(folder, port=port) as cluster:
            (folder / "pid").write_text(str(os.getpid()))
            print(f"Flink is at http://{cluster.address}, its logs in {folder}", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        print("Flink is stopped", file=sys.stderr)


def _down(folder: Path) -> None:
    """Ends the cluster of another process, and waits for its end."""
    try:
        process = int((folder / "pid").read_text())
        running = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError) as e:
        raise UsageError(f"{folder}: no cluster of this folder is running") from e
    if b"up" not in running:
        raise UsageError(f"{folder}: no cluster of this folder is running")
    os.kill(process, signal.SIGTERM)
    while Path(f"/proc/{process}").exists():
        time.sleep(0.1)


def main(argv: list[str]) -> int:
    """`up` or `down`."""
    parser = argparse.ArgumentParser(prog="python -m infra.flink.cluster")
    parser.add_argument("verb", choices=("up", "down"))
    parser.add_argument("--folder", type=Path, default=RUN, help="configuration and logs")
    parser.add_argument("--port", type=int, default=8081, help="of the REST interface; 0: any")
    flags = parser.parse_args(argv)
    folder = flags.folder.resolve()
    try:
        _up(folder, flags.port) if flags.verb == "up" else _down(folder)
    except UsageError as e:
        print(f"unisim: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
