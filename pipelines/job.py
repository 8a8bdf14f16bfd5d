"""`Job`: what one run of `prepare` is told besides the plan; `EmbedJob`: one of `embed`."""

from __future__ import annotations

import dataclasses

from pipelines import files
from pipelines.plan import Plan, estimate
from pipelines.text import Target, shards_for
from schemas import EncoderInfo, Manifest, UsageError
from schemas.table import MANIFEST, WORK


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run of `prepare`; everything else is in the table's plan.

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
        return Plan.load(self.out)

    def target(self) -> Target:
        """Where the embeddings go."""
        return new_target(self.out, self.encoder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """One run of `embed`.

    Attributes:
        t5: as of `Job`.
        texts: a file with a text in every line, embedded besides those of the table; None for none.
        target: where the embeddings go, and those that are there already.
        index: the parts of the table's index, relative to it.
    """

    t5: str | None
    texts: str | None
    target: Target
    index: tuple[str, ...]


def load_manifest(out: str) -> Manifest:
    """A table's manifest. Raises UsageError if there is none."""
    path = files.join(out, MANIFEST)
    if not files.exists(path):
        state = "an unfinished table" if files.exists(files.join(out, WORK)) else "no table"
        raise UsageError(
            f"{out}: {state}, {MANIFEST} is not there; run `unisim prepare` to its end"
        )
    return Manifest.from_json(files.read(path).decode(errors="replace"), path)


def new_target(out: str, encoder: EncoderInfo) -> Target:
    """Where the first embeddings of an encoder go: the number of shards is a function of the plan
    and the encoder alone, and stays."""
    # every record may have a text of its own, and there is the empty one
    texts = estimate(Plan.load(out)).chunks + 1
    return Target(out=out, encoder=encoder, num_shards=shards_for(texts, encoder))
