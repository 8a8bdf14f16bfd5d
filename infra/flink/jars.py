"""The jars of a Flink cluster and of Beam's job server: fetched by Maven, checked by SHA-256.

`python -m infra.flink.jars` fetches them into `build/flink` and prints the job server's path. The
digests are in `jars.sha256`; after a change of the `.pom.xml` files, remake that file with

    cd build/flink && sha256sum */*.jar > ../../infra/flink/jars.sha256

Exit codes: 0 they are there; 3 they cannot be had here, as Maven is missing or no repository that
it reaches has them; 2 anything else, such as a jar with another digest.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from schemas import UsageError

_HERE = Path(__file__).parent
_LOCK = _HERE / "jars.sha256"
CACHE = _HERE.parents[1] / "build" / "flink"
CLUSTER, JOB_SERVER = "cluster", "job_server"
_MAIN = "org.apache.beam.runners.flink.FlinkJobServerDriver"
# what Maven says where a repository does not answer, is not to be asked, or has no such file
_NOT_THERE = re.compile(
    "Could not transfer|Could not find artifact|Cannot access|was not found in|Unknown host"
)
_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies"


class Unreachable(UsageError):
    """The jars cannot be had from here; nothing is wrong with those that can."""


def fetch(cache: Path = CACHE, lock: Path = _LOCK) -> None:
    """Makes the cache whole: jars by Maven, if some are not there, and the job server's own.

    Args:
        lock: their digests, as `sha256sum` writes them.

    Raises:
        Unreachable: if Maven is not there, or no repository that it reaches has them.
        UsageError: if Maven fails otherwise, or a jar is not the right one.
    """
    if _wrong(cache, lock):
        for name in (CLUSTER, JOB_SERVER):
            shutil.rmtree(cache / name, ignore_errors=True)
            _maven(name, cache / name)
        if wrong := _wrong(cache, lock):
            raise UsageError(f"{cache}: {wrong}; wanted what {lock} lists")
    target, content = job_server_jar(cache), _launcher(cache)
    if not target.exists() or target.read_bytes() != content:  # a job server may be reading it
        target.write_bytes(content)


def job_server_jar(cache: Path = CACHE) -> Path:
    """What `java -jar` and Beam's `--flink_job_server_jar` take."""
    return cache / "job-server.jar"


def _maven(name: str, folder: Path) -> None:
    command = ["mvn", "--batch-mode", "--quiet", "--file", _HERE / f"{name}.pom.xml", _GOAL]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    try:
        subprocess.run([*command, *options], check=True, capture_output=True, text=True)
    except FileNotFoundError as e:
        raise Unreachable("mvn is not there; Flink's jars come by Maven") from e
    except subprocess.CalledProcessError as e:
        said = re.findall(r"\[ERROR\] (.*)", e.stdout) or ["it says nothing"]
        said = f"Maven could not fetch the jars of {name}: {said[0]}"
        missing = _NOT_THERE.search(e.stdout) and "hecksum" not in e.stdout
        raise (Unreachable if missing else UsageError)(said) from e


def _wrong(cache: Path, lock: Path) -> str:
    """How the jars differ from the lock; empty if they do not."""
    wanted = dict(line.split()[::-1] for line in lock.read_text().splitlines())
    there = {str(path.relative_to(cache)): path for path in sorted(cache.glob("*/*.jar"))}
    if missing := sorted(wanted.keys() - there.keys()):
        return f"{len(missing)} jars are not there, as {missing[0]}"
    for name, path in there.items():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != wanted.get(name):
            return f"{name} has the SHA-256 {digest}"
    return ""


def _launcher(cache: Path) -> bytes:
    """A jar that holds no more than its class path, relative to itself."""
    jars = sorted((cache / JOB_SERVER).glob("*.jar"))
    path = " ".join(f"{JOB_SERVER}/{jar.name}" for jar in jars)
    lines = ["Manifest-Version: 1.0", f"Main-Class: {_MAIN}", *_wrapped(f"Class-Path: {path}")]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as jar:
        entry = zipfile.ZipInfo("META-INF/MANIFEST.MF")  # of one date, whenever it is made
        jar.writestr(entry, "\r\n".join([*lines, "", ""]))
    return content.getvalue()


def _wrapped(line: str, width: int = 70) -> list[str]:
    """A manifest's lines end after 72 bytes and go on behind a space."""
    pieces = [line[i : i + width] for i in range(0, len(line), width)]
    return [pieces[0], *(f" {piece}" for piece in pieces[1:])]


def main(argv: list[str]) -> int:
    """Fetches, and says where the job server is."""
    parser = argparse.ArgumentParser(prog="python -m infra.flink.jars")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where they go")
    parser.add_argument("--lock", type=Path, default=_LOCK, help="their digests")
    flags = parser.parse_args(argv)
    try:
        fetch(flags.cache, flags.lock)
    except Unreachable as e:
        print(f"unisim: {e}", file=sys.stderr)
        return 3
    except UsageError as e:
        print(f"unisim: {e}", file=sys.stderr)
        return 2
    print(job_server_jar(flags.cache))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
