"""`unisim plan`: what `prepare` would do, and its price."""

from __future__ import annotations

import tyro

from infra.verbs._flags import PlanFlags, human, make_plan

DESCRIPTION = """List the raw data as units, pack them into shards, and write OUT/plan.json.

Nothing is decoded. The plan can be read, priced and reviewed; `unisim prepare` with the same flags
then runs it. Example:

  unisim plan --source bridge=…/bridge_dataset/1.0.0 --out table --tier 24x40:raw
"""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags = tyro.cli(PlanFlags, args=argv, prog="unisim plan", description=DESCRIPTION)
    from pipelines import plan

    made = make_plan(flags)
    new = plan.save(made, flags.out)
    show(made)
    print(f"{flags.out}/plan.json {'written' if new else 'is this plan already'}")
    return 0


def show(made) -> None:
    """Prints a line per dataset and the sum."""
    from pipelines import plan

    print(
        f"{'dataset':<24}{'version':<9}{'fps':>5}{'units':>8}{'shards':>8}{'raw':>11}{'frames':>11}"
    )
    for d in made.datasets:
        units = sum(len(shard.units) for shard in d.shards)
        raw = human(sum(shard.cost for shard in d.shards))
        frames = sum(shard.frames for shard in d.shards)
        fps = "all" if d.fps is None else f"{d.fps:g}"
        print(
            f"{d.name:<24}{d.version:<9}{fps:>5}{units:>8,}{len(d.shards):>8,}{raw:>11}{frames:>11,}"
        )
    e = plan.estimate(made)
    tiers = " + ".join(map(str, made.tiers))
    print(
        f"about {e.episodes:,} episodes, {e.chunks:,} records, {human(e.table_bytes)} of frames at"
        f" {tiers}, from {human(e.raw_bytes)}"
    )
