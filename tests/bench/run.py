"""How fast and how good our code is beside public libraries: one table, each row from one run.

    python -m tests.bench.run --peers .venv-peers/bin/python text panorama

Both sides have one core, the same one, and take turns. `ratio` is the peer's time by ours, of the
medians; where the peer is a limit or a goal, more than one keeps it. PSNR is against 64 bilinear
samples per pixel of the full resolution. The rows on text and decoding are seconds of the core's
own time, so that what else the machine does is in none of them; those marked (wall) have all cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.bench.timing import Row

SUBJECTS = ("panorama", "text", "decode")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", metavar="subject", help=", ".join(SUBJECTS))
    parser.add_argument("--peers", required=True, help="a Python with tests/bench/peers.txt")
    parser.add_argument("--share", type=float, default=1, help="of the texts, to try it out")
    parser.add_argument("--plot", type=Path, help="where the costs of the keys are drawn")
    parser.add_argument("--lerobot", help="a Python that has lerobot 0.4")
    parser.add_argument("--scale", type=Path, help="where the growth of prepare is drawn")
    flags = parser.parse_args()
    if wrong := set(flags.subjects) - set(SUBJECTS):
        parser.error(f"no subject {', '.join(sorted(wrong))}, only {', '.join(SUBJECTS)}")
    # before NumPy is imported: libraries make as many threads as there are cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    from tests.bench.timing import HEADER, line

    found = list(_rows(flags))
    for row in (HEADER, *found):
        print(line(row))
    return 0


def _rows(flags: argparse.Namespace) -> Iterator[Row]:
    from tests.bench.timing import Peer

    subjects = flags.subjects or SUBJECTS
    with tempfile.TemporaryDirectory() as folder:
        if "panorama" in subjects:
            from tests.bench import panorama

            with Peer(flags.peers, "peer") as peer:
                yield from panorama.rows(peer, Path(folder))
        if "text" in subjects:
            from tests.bench import embeddings, text
            from tests.bench.narrations import Sizes

            sizes = Sizes() if flags.share == 1 else Sizes().share(flags.share)
            with Peer(flags.peers, "peer_text") as peer:
                yield from text.rows(peer, Path(folder), sizes)
            yield from embeddings.rows(Path(folder), sizes, flags.plot)
        if "decode" in subjects:
            from tests.bench import decode, rlds, scale

            yield from decode.rows(Path(folder))
            yield from rlds.rows(Path(folder), flags.lerobot)
            yield from scale.rows(Path(folder), flags.scale)


if __name__ == "__main__":
    raise SystemExit(main())
