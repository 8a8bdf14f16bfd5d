"""What a call of `prepare` is about: a new table, the rest of one, another source of a finished
one, or what had been lost of it."""

from __future__ import annotations

from collections import defaultdict

from pipelines import change, files, receipt, replan
from pipelines.change import Change
from pipelines.counted import load as load_counted
from pipelines.job import load_manifest
from pipelines.plan import Plan, save, write
from schemas import UsageError
from schemas.table import MANIFEST, PLAN


def complete(out: str) -> bool:
    """Whether there is a finished table."""
    return files.exists(files.join(out, MANIFEST))


def prepare(made: Plan, out: str) -> bool | None:
    """Writes the plan where it belongs. Returns whether a finished table is changed by it; None if
    there is nothing to do.

    Raises:
        UsageError: if the table has another plan.
    """
    change.finish(out)
    if not complete(out):
        save(made, out)
        return False
    saved = Plan.load(out)
    grown = replan.grown(saved, made, out)
    if grown == saved:
        change.drop(out)  # one that was begun and is not wanted any more
        return None
    have = {dataset.name for dataset in saved.datasets}
    more = [dataset for dataset in grown.datasets if dataset.name not in have]
    _change(grown, out, {d.name: list(range(d.planned.num_shards)) for d in more})
    return True


def replay(made: Plan | None, out: str) -> bool | None:
    """The same for the shards that have lost something, whose raw data is read as it is now.

    Args:
        made: the plan of the flags, if they name sources: it must be of those that are there.

    Raises:
        UsageError: if there is no table, or `made` is of other paths.
    """
    change.finish(out)
    if not files.exists(files.join(out, PLAN)):
        raise UsageError(f"{out}: no table there, of which dead letters could be replayed")
    saved = Plan.load(out)
    if made is not None:
        _check_same(saved, made, out)
    if complete(out):
        done = load_counted(out, load_manifest(out))
    else:
        done = receipt.load_all(out, list(saved.costs()))
    lost: dict[str, set[int]] = defaultdict(set)
    for each in done:
        if each.lost:
            lost[each.dataset].add(each.shard)
    if not lost:
        return None if complete(out) else False
    plan, shards = replan.retried(saved, lost)
    if complete(out):
        _change(plan, out, shards)
        return True
    for name, redone in shards.items():
        for shard in redone:
            files.delete(receipt.path_of(out, name, shard))
    write(plan, out)
    return False


def _check_same(saved: Plan, made: Plan, out: str) -> None:
    there = {dataset.name: dataset.root for dataset in saved.datasets}
    for dataset in made.datasets:
        if there.get(dataset.name) != dataset.root:
            known = ", ".join(f"{name}={root}" for name, root in there.items())
            raise UsageError(
                f"--replay-dead-letters: {out} was prepared from {known}, not from"
                f" {dataset.name}={dataset.root}; leave --source out"
            )


def _change(plan: Plan, out: str, shards: dict[str, list[int]]) -> None:
    before = load_manifest(out).digest()
    new = Change(shards=shards, before=before, plan=plan.stamped_digest()).begin(out)
    if new or not files.exists(files.join(change.folder(out), PLAN)):
        write(plan, change.folder(out))
