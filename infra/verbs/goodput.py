"""`unisim goodput`: where the wall time of a run went."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import tyro

DESCRIPTION = """Prints how much of a run's wall time went to useful steps, and what took the rest.

Over all the processes that the run had one after another: compiling, waiting for data, saving,
starting, steps that were done again after a kill, and the time in which none was there.

examples:
  unisim goodput --run run
  unisim goodput --run run --json
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoodputFlags:
    """Which run."""

    run: Path
    """The run's folder: the --out of `unisim train`."""

    json: bool = False
    """Print JSON."""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be done."""
    flags = tyro.cli(GoodputFlags, prog="unisim goodput", description=DESCRIPTION, args=argv)

    from schemas import UsageError
    from trainer.train.goodput import GOODPUT, read_goodput

    found = read_goodput(flags.run)
    if found is None:
        raise UsageError(
            f"{flags.run / GOODPUT}: tells of no step; wanted the --out of `unisim train`"
        )
    if flags.json:
        print(json.dumps(dataclasses.asdict(found) | {"share": found.share}, indent=1))
    else:
        print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
