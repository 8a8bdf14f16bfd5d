"""`Finding`: one thing that is wrong with a table."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One violation.

    Attributes:
        check: "files", "index", "records", "episodes", "embeddings" or "manifest".
        where: a file, or a record's `dataset/episode_id/step`.
        message: what was found and what was wanted, in one line.
    """

    check: Literal["files", "index", "records", "episodes", "embeddings", "manifest"]
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.check}: {self.where}: {self.message}"
