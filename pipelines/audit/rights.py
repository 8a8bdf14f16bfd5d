"""The family "rights": every record says under which licence it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from pipelines.audit.check import Where, check


class Licence(NamedTuple):
    """What a dataset has of a licence.

    Attributes:
        records: how many.
        first: one of them, as an index row of three columns.
    """

    records: int
    first: Mapping


Licences = Mapping[tuple[str, str], Licence]
"""(dataset, licence) -> what there is of it."""


@check("licence-missing", "rights")
def missing(licences: Licences) -> Iterator[tuple[Where, str]]:
    """Every record has a licence."""
    for (_, licence), found in licences.items():
        if not licence.strip():
            yield found.first, f"no licence, with {found.records - 1} more of its dataset"


@check("licence-denied", "rights")
def denied(licences: Licences, unwanted: Collection[str]) -> Iterator[tuple[Where, str]]:
    """No record has a licence that --deny-licence names."""
    refused = {name.casefold() for name in unwanted}
    for (_, licence), found in licences.items():
        if licence.casefold() in refused:
            yield found.first, f"licence {licence}, with {found.records - 1} more of its dataset"


@check("licence-unlisted", "rights", "warning")
def unlisted(licences: Licences, declared: Mapping[str, str]) -> Iterator[tuple[Where, str]]:
    """A record has the licence that the manifest tells of its dataset, if it tells of one."""
    for (dataset, licence), found in licences.items():
        known = declared[dataset]
        if licence.strip() and licence != known and not known.casefold().startswith("unknown"):
            message = f"licence {licence!r}, the manifest says {known!r}"
            yield found.first, f"{message}, with {found.records - 1} more of its dataset"
