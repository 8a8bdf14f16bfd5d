"""Beam's Prism runner: a Go program of Beam's own, built here, `build/prism/prism`.

`python -m infra.prism` builds it, if it is not there, and prints its path. Go checks what it
downloads against its public checksum database.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from schemas import UsageError

VERSION = "v2.77.0"
FOLDER = Path(__file__).resolve().parents[1] / "build" / "prism" / VERSION
BINARY = FOLDER / "prism"
_PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"


def build() -> None:
    """Builds Prism, which takes some minutes, or finds it there.

    Raises:
        UsageError: if Go is not there, or cannot build it.
    """
    if BINARY.exists():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(FOLDER), "GOFLAGS": "-mod=mod"}
    command = ["go", "install", f"{_PACKAGE}@{VERSION}"]
    try:
        subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    except FileNotFoundError as e:
        raise UsageError("go is not there; Prism is a Go program, built on this machine") from e
    except subprocess.CalledProcessError as e:
        last = (e.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UsageError(f"Go could not build Prism: {last}") from e


def complete(given: list[str]) -> list[str]:
    """The Beam flags with the binary's path, where it is built and the user gives none."""
    if not BINARY.exists() or any(flag.startswith("--prism_location") for flag in given):
        return given
    return [*given, f"--prism_location={BINARY}"]


def main() -> int:
    """Builds, and says where it is."""
    try:
        build()
    except UsageError as e:
        print(f"unisim: {e}", file=sys.stderr)
        return 2
    print(BINARY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
