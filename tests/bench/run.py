"""How fast and how good our code is beside public libraries: one table, each row from one run.

    python -m tests.bench.run --peers .venv-peers/bin/python

Both sides have one core, the same one, and take turns. `ratio` is the peer's time by ours, of the
medians. PSNR is against 64 bilinear samples per pixel of the full resolution.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", required=True, help="a Python with tests/bench/peers.txt")
    peers = parser.parse_args().peers
    # before NumPy is imported: libraries make as many threads as there are cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from tests.bench import panorama
    from tests.bench.timing import HEADER, Peer, line

    with tempfile.TemporaryDirectory() as folder, Peer(peers) as peer:
        found = list(panorama.rows(peer, Path(folder)))
    for row in (HEADER, *found):
        print(line(row))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
