"""What verbs print of a table."""

from __future__ import annotations

from schemas import EncoderInfo, Manifest
from schemas.table import DatasetInfo


def summary(manifest: Manifest) -> None:
    """A line or two per source, and what the embeddings are."""
    counts = f"{'episodes':>9}{'records':>9}{'frames':>10}{'lost':>6}{'declared':>9}{'clipped':>8}"
    print(f"{'source':<24}{counts}  splits, licence")
    for d in manifest.datasets:
        splits = " ".join(f"{split}:{sum(rows)}" for split, rows in d.shard_rows.items())
        print(
            f"{d.name:<24}{d.episodes:>9,}{d.chunks:>9,}{d.frames:>10,}{d.dead_letters:>6,}"
            f"{d.declared_losses:>9,}{sum(d.clipped.values()):>8,}  {splits}, {d.license}"
        )
        print_losses(d)
    print(f"tiers {' '.join(manifest.tiers)}")
    for encoder in manifest.encoders:
        print_encoder(encoder)


def print_encoder(encoder: EncoderInfo) -> None:
    """`text tiny-random: 39 texts, 1 of them cut to 64 tokens, bfloat16. A tiny T5 …`"""
    cut = f", {encoder.truncated:,} of them cut to {encoder.max_tokens} tokens"
    print(
        f"text {encoder.name}: {encoder.rows:,} texts{cut if encoder.truncated else ''},"
        f" {encoder.dtype}. {encoder.description}"
    )


def print_losses(dataset: DatasetInfo) -> None:
    """`not kept: 37 overlap, 1 decode`: its dead letters by stage, most first; nothing if none."""
    if dataset.losses:
        stages = sorted(dataset.losses.items(), key=lambda item: (-item[1], item[0]))
        print("  not kept: " + ", ".join(f"{count:,} {stage}" for stage, count in stages))


def print_table(manifest: Manifest) -> None:
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
