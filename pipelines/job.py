"""`Job`: what one run of `prepare` is told besides the plan."""

from __future__ import annotations

import dataclasses

from pipelines import files
from pipelines.plan import Plan
from schemas import EncoderInfo
from schemas.table import PLAN


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run of `prepare`; everything else is in OUT/plan.json.

    Attributes:
        out: the table's folder, with its plan.
        t5: the encoder's Hugging Face directory; None for the built-in `tiny-random`.
        encoder: what `check_directory` said of it, so that no worker digests its weights again.
        error_budget: part of a source's episodes that may be lost, 0 to 1.
    """

    out: str
    t5: str | None
    encoder: EncoderInfo
    error_budget: float

    def plan(self) -> Plan:
        path = files.join(self.out, PLAN)
        return Plan.from_json(files.read(path).decode(), path)
