"""`Check` and `Finding`: what the audit looks for, and one thing that it has found.

A check is a generator function with a name, a family and a severity; its docstring's first line
says what it wants, and `unisim audit --list` prints that.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

Severity = Literal["error", "warning"]
Family = Literal["integrity", "schema", "content", "rights", "drift"]
FAMILIES: tuple[Family, ...] = ("integrity", "schema", "content", "rights", "drift")
Where = str | Mapping[str, Any]
"""A file or another thing by its name, or a record by its index row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """What is looked for.

    Attributes:
        name: as findings and flags have it.
        family: which flag chooses.
        severity: an error is a violation; a warning is one with --strict.
        says: what is wanted, in one line.
    """

    name: str
    family: Family
    severity: Severity
    says: str

    def found(self, where: Where, message: str) -> Finding:
        """A finding of this check."""
        if isinstance(where, str):
            return Finding(
                check=self.name,
                family=self.family,
                severity=self.severity,
                where=where,
                message=message,
            )
        return Finding(
            check=self.name,
            family=self.family,
            severity=self.severity,
            where=key_of(where),
            message=message,
            dataset=where["dataset"],
            episode_id=where["episode_id"],
            step=where["step"],
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a table.

    Attributes:
        check, family, severity: of its `Check`.
        where: a file, or a record's `dataset/episode_id/step`.
        message: what was found and what was wanted, in one line.
        dataset, episode_id, step: of the record, if it is about one.
    """

    check: str
    family: Family
    severity: Severity
    where: str
    message: str
    dataset: str = ""
    episode_id: str = ""
    step: int | None = None

    def __str__(self) -> str:
        return f"{self.severity}: {self.check}: {shown(self.where)}: {shown(self.message)}"


FINDING_SCHEMA = pa.schema(
    [
        (field.name, pa.int64() if field.name == "step" else pa.string())
        for field in dataclasses.fields(Finding)
    ]
)
CHECKS: dict[str, Check] = {}
"""By name, in the order of their declaration."""


def declare(name: str, family: Family, severity: Severity, says: str) -> Check:
    """A new check. Raises ValueError if there is one of this name."""
    if name in CHECKS:
        raise ValueError(f"two checks are called {name!r}")
    says = says[0].upper() + says[1:]
    CHECKS[name] = Check(name=name, family=family, severity=severity, says=says)
    return CHECKS[name]


def check(name: str, family: Family, severity: Severity = "error"):
    """Declares a check that is a generator function of (where, message)."""

    def decorate(function: Callable[..., Iterable[tuple[Where, str]]]):
        made = declare(name, family, severity, _first_line(function))

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Iterator[Finding]:
            for where, message in function(*args, **kwargs):
                yield made.found(where, message)

        return run

    return decorate


def _first_line(function: Callable[..., Any]) -> str:
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()).rstrip(".")


def key_of(row: Mapping[str, Any]) -> str:
    """A record's `dataset/episode_id/step`."""
    return f"{row['dataset']}/{row['episode_id']}/{row['step']}"


def shown(text: str) -> str:
    """The text for a terminal or a log: on one line, nothing in it that a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
