"""`DataError`: bad data is dead-lettered; every other exception is a bug and stops the job."""

from __future__ import annotations


class DataError(Exception):
    """One piece of input cannot be used. The writer dead-letters it and goes on with the rest.

    Args:
        reason: what was wrong, in one line: what was found and what was wanted.
        stage: where it was noticed: "read", "decode", "annotate", "validate" …
        key: what is lost: an episode id, a row key; a raised error without one is about the rest of
            the unit.
        uri: the file that holds the raw bytes; empty means the unit's own.
        where: the place in that file, as in the record's `source_range`.
        counts: False for a loss that the source itself declares (a row that was never downloaded);
            it is recorded like the others but does not count against the error budget.
    """

    def __init__(
        self,
        reason: str,
        *,
        stage: str = "read",
        key: str = "",
        uri: str = "",
        where: str = "",
        counts: bool = True,
    ):
        super().__init__(reason)
        self.reason = reason
        self.stage = stage
        self.key = key
        self.uri = uri
        self.where = where
        self.counts = counts


class UsageError(Exception):
    """The user asked for something that cannot be done. The command prints one line, exit 2."""


def did_you_mean(name: str, known: list[str]) -> str:
    """`did you mean 'x'?`, or the list of what there is: the end of an error line."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(known)}"
