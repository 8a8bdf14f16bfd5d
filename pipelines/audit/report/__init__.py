"""The audit as one self-contained page for people: to be read, printed and kept."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipelines.audit import picture
from pipelines.audit.check import CHECKS, FAMILIES, Finding
from pipelines.audit.lookup import Lookup
from pipelines.audit.opened import Opened
from pipelines.audit.report.charts import charts
from pipelines.audit.shard import Scope
from pipelines.audit.summary import Summary
from pipelines.audit.whole import Whole
from schemas import DataError, UsageError

_SHEET, _WORST, _COLUMNS = 4, 12, 6


def render(
    table: Opened,
    scope: Scope,
    whole: Whole,
    summary: Summary,
    *,
    denied: Sequence[str] = (),
    compared: bool = False,
) -> str:
    """The page. Every text of the table is escaped.

    Args:
        whole, summary: of an audit that has come to its end.
        denied: licences that no record was to have.
        compared: whether drift was looked for.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    lookup = Lookup(table)
    return environment.get_template("report.html.j2").render(
        out=table.out,
        manifest=table.manifest,
        digest=table.manifest.digest(),
        scope=scope,
        read=whole.read,
        summary=summary,
        families=[
            (name, _checks(name, summary, () if denied else ("licence-denied",)))
            for name in FAMILIES
            if name in scope.families and (compared or name != "drift")
        ],
        licences=_licences(whole),
        denied=denied,
        datasets=[
            {
                "info": d,
                "statistics": whole.statistics[d.name],
                "charts": charts(whole.statistics[d.name]),
                "sheet": list(_sheet(lookup, d.name)),
            }
            for d in table.manifest.datasets
        ],
        worst=list(_worst(lookup, summary)),
        letters=_letters(table),
    )


def _checks(family: str, summary: Summary, unmade: Collection[str]) -> list[dict[str, Any]]:
    """A family's checks but for those that were not made: those that found something first."""
    found = [
        {"check": c, "count": summary.checks[c.name], "examples": summary.examples.get(c.name, [])}
        for c in CHECKS.values()
        if c.family == family and c.name not in unmade
    ]
    return sorted(found, key=lambda each: not each["count"])  # stable


def _licences(whole: Whole) -> list[dict[str, Any]]:
    """Records per licence and dataset, most first."""
    rows = [
        {"dataset": dataset, "licence": licence, "records": found.records}
        for (dataset, licence), found in whole.licences.items()
    ]
    return sorted(rows, key=lambda row: (-row["records"], row["dataset"], row["licence"]))


def _sheet(lookup: Lookup, dataset: str) -> Iterator[dict[str, str]]:
    """Some records of a dataset, spread over its shards."""
    shards = lookup.table.dataset(dataset).num_shards
    chosen = {i * shards // _SHEET for i in range(_SHEET)}
    for shard in sorted(chosen):
        try:
            index = lookup.table.index(dataset, shard, shards)
        except DataError:
            continue  # said above
        wanted = _SHEET // len(chosen) or 1
        for i in range(wanted):
            if len(index):
                row = index.slice(i * len(index) // wanted, 1).to_pylist()[0]
                yield _shown(lookup, row)


def _worst(lookup: Lookup, summary: Summary) -> Iterator[dict[str, Any]]:
    """The records with the most findings."""
    said: dict[tuple[str, str, int | None], list[Finding]] = {}
    for examples in summary.examples.values():
        for finding in examples:
            said.setdefault((finding.dataset, finding.episode_id, finding.step), []).append(finding)
    for (dataset, episode, step), count in summary.offenders.most_common(_WORST):
        found = said.get((dataset, episode, step), [])
        try:
            row = lookup.find(f"{dataset}/{episode}/{step}")
            shown = _shown(lookup, row)
        except UsageError:
            shown = {"key": f"{dataset}/{episode}/{step}", "text": "", "picture": ""}
        yield {**shown, "count": count, "findings": found}


def _shown(lookup: Lookup, row: dict[str, Any]) -> dict[str, str]:
    """A record's name, its text, and its picture as a data: address; empty if it has none."""
    key = f"{row['dataset']}/{row['episode_id']}/{row['step']}"
    try:
        chunk = lookup.chunk(row, lookup.best_tier(48))
        data = picture.png(picture.strip(chunk, _COLUMNS))
        address = "data:image/png;base64," + base64.b64encode(data).decode()
    except DataError:
        address = ""
    return {"key": key, "text": row["text"], "picture": address}


def _letters(table: Opened) -> list[dict[str, Any]]:
    """Dead letters by dataset, stage and reason, most first."""
    try:
        letters = table.dead_letters().select(["dataset", "stage", "reason", "source_uri"])
    except DataError:
        return []
    counts: Counter[tuple[str, str, str]] = Counter()
    examples: dict[tuple[str, str, str], str] = {}
    for row in letters.to_pylist():
        kind = (row["dataset"], row["stage"], _kind(row["reason"]))
        counts[kind] += 1
        examples.setdefault(kind, f"{row['reason']} · {row['source_uri']}")
    return [
        {"dataset": d, "stage": s, "reason": examples[d, s, r], "count": n}
        for (d, s, r), n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _kind(reason: str) -> str:
    """A reason without its numbers, so that alike ones are one group."""
    return "".join("#" if c.isdigit() else c for c in reason)[:80]
