"""`Job`: what one run of `prepare` is told besides the plan; `EmbedJob`: one of `embed`."""

from __future__ import annotations

import dataclasses

from pipelines import change, files
from pipelines.change import Change
from pipelines.plan import Plan, estimate
from pipelines.text import Target, shards_for
from schemas import EncoderInfo, Manifest, UsageError
from schemas.table import MANIFEST, WORK


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One run of `prepare`; everything else is in its plan.

    Attributes:
        out: the table's folder.
        t5: the encoder's Hugging Face directory; None for the built-in `tiny-random`.
        encoder: what `check_directory` said of it, so that no worker digests its weights again.
        error_budget: part of a source's episodes that may be lost, 0 to 1.
        changes: whether a finished table is changed, by the `Change` that is under way there.
    """

    out: str
    t5: str | None
    encoder: EncoderInfo
    error_budget: float
    changes: bool = False

    @property
    def into(self) -> str:
        """The folder that files are written to, with the plan that tells which."""
        return change.folder(self.out) if self.changes else self.out

    def plan(self) -> Plan:
        return Plan.load(self.into)

    def shards(self, plan: Plan) -> list[tuple[str, int]]:
        """(dataset, shard) of all that are made, in order."""
        current = Change.load(self.out) if self.changes else None
        wanted = {d.name: range(d.planned.num_shards) for d in plan.datasets}
        chosen = current.shards if current else wanted
        return [(name, shard) for name in wanted for shard in chosen.get(name, ())]

    def target(self) -> Target:
        """Where the embeddings go. Raises UsageError if a finished table has none of this encoder
        yet."""
        if not self.changes:
            return new_target(self.out, self.encoder)
        manifest = load_manifest(self.out)
        found = target_beside(self.out, self.encoder, manifest)
        if found is None:
            names = ", ".join(encoder.name for encoder in manifest.encoders)
            raise UsageError(
                f"{self.out}: has embeddings of {names}, not of {self.encoder.name}; give the same"
                " --t5, --embedding-dtype and --embedding-compute as before"
            )
        return found


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
        if files.exists(files.join(change.folder(out), MANIFEST)):
            raise UsageError(f"{out}: a change of it was cut short; run the same command again")
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


def target_beside(out: str, encoder: EncoderInfo, manifest: Manifest) -> Target | None:
    """Where more embeddings of an encoder go that the table has some of; None if it has none."""
    for before in manifest.encoders:
        if before.same_rows(encoder):
            plain = dataclasses.replace(encoder, name=before.name)
            shards = len(before.shard_rows)
            return Target(out=out, encoder=plain, num_shards=shards, before=before)
    return None
