"""How fast the trainer is: one table, each row from one run.

    python -m tests.bench.model --peers .venv-peers-model/bin/python --cache build/bench

A training step beside video-diffusion-pytorch's, our fast samplers beside the paper's, the end of a
long rollout beside its beginning. Both sides have the same two cores and take turns; seconds are
wall seconds, medians, so only ratios count on a machine that does other things. `ratio` is the
peer's time by ours. Of rollouts "peer" is the beginning (memory after step 2, the first quarter's
time), and 1 is what is wanted.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.timing import Row

PARTS = ("step", "sampling", "rollout")
_THREADS = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--peers", required=True, help="a Python with tests/bench/peers_model.txt")
    parser.add_argument("--cache", type=Path, required=True, help="where the trained toy is kept")
    flags = parser.parse_args()
    if wrong := set(flags.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(wrong))}, only {', '.join(PARTS)}")
    # before JAX is imported: it makes as many threads as there are cores
    cores = sorted(os.sched_getaffinity(0))[-_THREADS:]
    os.sched_setaffinity(0, cores)
    from tests.bench.timing import HEADER, line

    found = list(_rows(flags, len(cores)))
    print(f"{datetime.date.today()}, {len(cores)} cores of {_processor()};", *sys.argv[1:])
    for row in (HEADER, *found):
        print(line(row))
    return 0


def _rows(flags: argparse.Namespace, threads: int) -> Iterator[Row]:
    from tests.bench.timing import Peer

    parts = flags.parts or PARTS
    with tempfile.TemporaryDirectory() as folder:
        if "step" in parts:
            from tests.bench import train_step

            with Peer(flags.peers, "peer_video_diffusion") as peer:
                yield from train_step.rows(peer, threads)
        if "sampling" in parts:
            from tests.bench import sampling

            yield from sampling.rows(flags.cache)
        if "rollout" in parts:
            from tests.bench import long_rollout

            yield from long_rollout.rows(Path(folder))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [text.split(":", 1)[1].strip() for text in lines if text.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    raise SystemExit(main())
