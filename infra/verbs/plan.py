"""`unisim plan`: what `prepare` would do, and its price."""

from __future__ import annotations

import tyro

from infra.verbs._flags import PlanFlags, human, make_plan

DESCRIPTION = """List the raw data as units, pack them into shards, and write OUT/plan.json.

Nothing is decoded. The plan can be read, priced and reviewed: OUT/plan.json says what and how,
OUT/plan.units.parquet lists the units of every shard (`largest` is the largest shard's cost by the
mean). `unisim prepare` with the same flags then runs it. Example:

  unisim plan --source bridge=…/bridge_dataset/1.0.0 --out table --tier 24x40:raw
"""


UNEVEN = 1.3


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags = tyro.cli(PlanFlags, args=argv, prog="unisim plan", description=DESCRIPTION)
    from pipelines import begin, plan, replan

    made = make_plan(flags)
    if begin.complete(flags.out):
        show(replan.grown(plan.Plan.load(flags.out), made, flags.out))
        print(f"{flags.out}: a finished table; `unisim prepare` adds the sources that it has not")
        return 0
    new = plan.save(made, flags.out)
    show(made)
    print(f"{flags.out}/plan.json {'written' if new else 'is this plan already'}")
    return 0


def show(made) -> None:
    """Prints a line per dataset and the sum."""
    from pipelines import plan

    print(
        f"{'dataset':<24}{'version':<9}{'fps':>5}{'units':>10}{'shards':>8}{'raw':>11}"
        f"{'frames':>12}{'largest':>9}"
    )
    for d in made.datasets:
        units = d.planned
        raw, frames = human(units.total("cost")), units.total("frames")
        fps = "all" if d.fps is None else f"{d.fps:g}"
        print(
            f"{d.name:<24}{d.version:<9}{fps:>5}{len(units):>10,}{units.num_shards:>8,}{raw:>11}"
            f"{frames:>12,}{plan.unevenness(units):>9.2f}"
        )
    e = plan.estimate(made)
    tiers = " + ".join(map(str, made.tiers))
    print(
        f"about {e.episodes:,} episodes, {e.chunks:,} records, {human(e.table_bytes)} of frames at"
        f" {tiers}, from {human(e.raw_bytes)}; about {_hours(e.core_hours)}"
    )
    if e.largest_shard > UNEVEN:
        print(
            f"the largest shard costs {e.largest_shard:.2f} times the mean: what cannot be cut is"
            " large, a larger --shard-mb evens it out"
        )


def _hours(core_hours: float) -> str:
    if core_hours < 1:
        return f"{max(core_hours * 60, 1):.0f} minutes of one core"
    return f"{core_hours:,.0f} core-hours"
