"""Running the `unisim` command as a user does: in a process of its own."""

import subprocess
import sys
from pathlib import Path

from schemas.table import TIMINGS

ROOT = Path(__file__).resolve().parents[1]


def unisim(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs a verb, and fails the test if its exit code is not `code`."""
    command = [sys.executable, "-m", "infra.cli", *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path; without a table's timings, as no two are
    equal."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != TIMINGS)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
