"""`unisim audit`: re-read a table and check it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

DESCRIPTION = """Re-read every record of a table and check it against schema, index and manifest.

Prints a summary per source and every violation. Exit 0: clean; 3: violations; 2: no table there.
"""


@dataclasses.dataclass(frozen=True)
class AuditFlags:
    """Which table."""

    out: Annotated[str, tyro.conf.Positional]
    """The table's folder."""

    most: int = 50
    """Violations printed; all are counted."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags = tyro.cli(AuditFlags, args=argv, prog="unisim audit", description=DESCRIPTION)
    from infra.progress_bar import Bar
    from pipelines.audit import Opened, audit

    table = Opened(flags.out)
    summary(table)
    total = sum(d.chunks for d in table.manifest.datasets) * len(table.tiers)
    found = 0
    with Bar("audit", total, "records") as bar:
        for finding in audit(table, bar.add):
            found += 1
            if found <= flags.most:
                bar.print(str(finding))
    if found > flags.most:
        print(f"… and {found - flags.most:,} more")
    print(f"{total:,} records read, {found:,} violations")
    return 3 if found else 0


def summary(table) -> None:
    """A line or two per source, and what the embeddings are."""
    counts = f"{'episodes':>9}{'records':>9}{'frames':>10}{'lost':>6}{'declared':>9}{'clipped':>8}"
    print(f"{'source':<24}{counts}  splits, licence")
    for d in table.manifest.datasets:
        splits = " ".join(f"{split}:{sum(rows)}" for split, rows in d.shard_rows.items())
        print(
            f"{d.name:<24}{d.episodes:>9,}{d.chunks:>9,}{d.frames:>10,}{d.dead_letters:>6,}"
            f"{d.declared_losses:>9,}{sum(d.clipped.values()):>8,}  {splits}, {d.license}"
        )
        print_losses(d)
    print(f"tiers {' '.join(map(str, table.tiers))}")
    for encoder in table.manifest.encoders:
        print_encoder(encoder)


def print_encoder(encoder) -> None:
    """`text tiny-random: 39 texts, 1 of them cut to 64 tokens, bfloat16. A tiny T5 …`"""
    cut = f", {encoder.truncated:,} of them cut to {encoder.max_tokens} tokens"
    print(
        f"text {encoder.name}: {encoder.rows:,} texts{cut if encoder.truncated else ''},"
        f" {encoder.dtype}. {encoder.description}"
    )


def print_losses(dataset) -> None:
    """`not kept: 37 overlap, 1 decode`: its dead letters by stage, most first; nothing if none."""
    if dataset.losses:
        stages = sorted(dataset.losses.items(), key=lambda item: (-item[1], item[0]))
        print("  not kept: " + ", ".join(f"{count:,} {stage}" for stage, count in stages))


def print_table(manifest) -> None:
    """A line or two for each dataset, encoder and removal of a table that was made or changed."""
    for d in manifest.datasets:
        print(
            f"{d.name:<24}{d.episodes:>8,} episodes {d.chunks:>9,} records {d.frames:>10,} frames"
            f" {d.dead_letters:>6,} lost {d.declared_losses:>6,} declared losses"
        )
        print_losses(d)
    for encoder in manifest.encoders:
        print_encoder(encoder)
    for rule in manifest.forgotten:
        print(f"forgotten: {sum(rule.records.values()):,} records of {rule}")
