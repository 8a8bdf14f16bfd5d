"""`unisim stage`: what a run needs of a table, copied to a disk near by."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

import tyro

DESCRIPTION = """Copy the tiers of a table that a run needs to this machine, and check each file.

A slice of TPUs reads many small pieces at random; a local SSD answers those far sooner than a
bucket. What is copied: the index, the frames of the tiers, one encoder's embeddings. Each file must
have the size and the digest that the manifest says. The manifest comes last, so a copy that was cut
short is no table, and the same command goes on from there. A run may move between the copy and the
original.

examples:
  unisim stage --data gs://bucket/table --out /mnt/disks/ssd/table
  unisim stage --data gs://bucket/table --out /mnt/disks/ssd/table --tier 24x40 --tier 48x80
  unisim stage --data gs://bucket/table --out /mnt/disks/ssd/table --dry-run
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageFlags:
    """What is copied, and where to."""

    data: str
    """The table: the --out of `unisim prepare`, a folder or a URI."""

    out: Path
    """The copy's folder."""

    tier: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A resolution, such as 24x40; once per tier. Default: the table's first."""

    encoder: str | None = None
    """Whose embeddings: a folder under text/. Default: the table's own."""

    dry_run: bool = False
    """Say what would be copied, and end."""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be done."""
    flags = tyro.cli(StageFlags, prog="unisim stage", description=DESCRIPTION, args=argv)

    from infra.progress_bar import Bar
    from infra.verbs._flags import human
    from trainer.data import Table
    from trainer.data.stage import stage, wanted

    tables = [Table(flags.data, tier) for tier in flags.tier or (None,)]
    table, tiers = tables[0], list(dict.fromkeys(t.tier for t in tables))
    chosen = wanted(table.path, table.manifests[0], tiers, table.encoder(flags.encoder))
    for folder, (count, size) in sorted(chosen.by_folder().items()):
        print(f"{folder:<20}{count:>8} files  {human(size):>10}", file=sys.stderr)
    if flags.dry_run:
        print(f"{flags.out}: {human(chosen.bytes)} would be copied or are there", file=sys.stderr)
        return 0
    start = time.monotonic()
    with Bar("stage", round(chosen.bytes / 1e6), "MB") as bar:
        copied = stage(chosen, flags.out, progress=lambda size: bar.add(size / 1e6))
    print(
        f"{flags.out}: {human(copied)} copied, {human(chosen.bytes - copied)} were there,"
        f" {time.monotonic() - start:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
