"""Peak memory of preparing each source at scale: a 2-hour video, 2 GB of TFRecord or tar, houses
of large panoramas.

    python -m tests.memory.measure --source bridge --source ego4d

Runs the real `unisim prepare` with one worker on a scaled fake and samples the memory of its whole
process tree: proportional set size, so that pages that processes share count once. Fails above
1.5 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from tests.command import ROOT
from tests.memory.corpora import CORPORA

LIMIT_MB = 1500


class Sampler(threading.Thread):
    """The peak memory of a process and all below it, in MB, together and of the largest one."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.root = psutil.Process(pid)
        self.total = self.largest = 0.0
        self.done = threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.2):
            sizes = []
            try:
                for process in [self.root, *self.root.children(recursive=True)]:
                    sizes.append(process.memory_full_info().pss / 1e6)
            except psutil.Error:
                continue  # a process that has just ended
            self.total = max(self.total, sum(sizes))
            self.largest = max(self.largest, *sizes)


def measure(name: str, root: Path) -> dict[str, float]:
    """Prepares the scaled fake of a source; sizes in MB, seconds, frames."""
    (root / "raw").mkdir()
    path = CORPORA[name](root / "raw")
    raw = sum(p.stat().st_size for p in (root / "raw").rglob("*") if p.is_file())
    command = [sys.executable, "-m", "infra.cli", "prepare", "--source", f"{name}={path}"]
    command += ["--out", str(root / "out"), "--workers", "1", "--error-budget", "0.5"]
    begin = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    sampler = Sampler(process.pid)
    sampler.start()
    _, errors = process.communicate()
    sampler.done.set()
    sampler.join()
    if process.returncode:
        raise RuntimeError(f"{name}: exit {process.returncode}\n{errors[-2000:]}")
    manifest = json.loads((root / "out/manifest.json").read_text())
    return {
        "raw": raw / 1e6,
        "frames": sum(dataset["frames"] for dataset in manifest["datasets"]),
        "seconds": time.monotonic() - begin,
        "largest": sampler.largest,
        "total": sampler.total,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", action="append", help="only these")
    names = parser.parse_args().source or sorted(CORPORA)
    print(f"{'source':<24}{'raw MB':>9}{'frames':>10}{'s':>7}{'largest MB':>12}{'all MB':>9}")
    worst = 0.0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, Path(folder))
        worst = max(worst, found["total"])
        print(
            f"{name:<24}{found['raw']:>9,.0f}{found['frames']:>10,.0f}{found['seconds']:>7,.0f}"
            f"{found['largest']:>12,.0f}{found['total']:>9,.0f}",
            flush=True,
        )
    print(f"peak {worst:,.0f} MB of {LIMIT_MB:,} MB allowed")
    return 1 if worst > LIMIT_MB else 0


if __name__ == "__main__":
    raise SystemExit(main())
