"""Flags that several verbs share, and their parsing."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

import tyro

from schemas import EncoderInfo, Tier, UsageError, did_you_mean
from schemas.embedding import Compute, EmbeddingDtype

DEFAULT_TIER = "24x40:raw"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanFlags:
    """Which raw data becomes which table."""

    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME=PATH of raw data; once per dataset. `unisim sources` lists the names."""

    out: str
    """The table's folder, local or on a file system that Beam knows (gs://…)."""

    tier: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """HEIGHTxWIDTH:raw or HEIGHTxWIDTH:jpeg; once per resolution. Default 24x40:raw, the base
    model's; 192x320:jpeg is the finest super-resolution's."""

    fps: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Frames per second of the table: RATE for all sources, or NAME=RATE. Default: each source's
    own target, see `unisim sources`."""

    option: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """NAME.OPTION=NUMBER, a source's own setting, see `unisim sources NAME`. Once per setting."""

    exclude: str | None = None
    """A Parquet file of auditors' verdicts (`unisim audit --export`): an episode of which a record
    was rejected is left out, as a declared loss."""

    prefix_dataset: bool = False
    """Put the dataset's name before every action text (helps tiny domains, hurts transfer)."""

    shard_mb: float = 128.0
    """Raw megabytes per shard, the unit of parallel work and of resuming."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderFlags:
    """What embeds the texts."""

    t5: str | None = None
    """Hugging Face directory of a T5 encoder (config.json, model.safetensors, spiece.model).
    Default: `tiny-random`, built in for trying things out. It is not a language model."""

    embedding_dtype: EmbeddingDtype = "bfloat16"
    """How embeddings are stored: bfloat16, or int8 with a scale per token, half the bytes for a
    little more error. Its embeddings go into a folder of their own, NAME-int8."""

    embedding_compute: Compute = "float32"
    """What the encoder computes in. bfloat16 is several times faster on accelerators; its
    embeddings go into a folder of their own, NAME-bf16."""

    def check(self) -> EncoderInfo:
        """What the encoder is; the costliest check, it digests the weights. Raises UsageError."""
        from pipelines.text import check_directory

        return check_directory(self.t5, compute=self.embedding_compute, dtype=self.embedding_dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamFlags:
    """How a job runs."""

    runner: str = "FnApiRunner"
    """Beam runner. The default is Beam's own local one, with --workers processes."""

    workers: int = 0
    """Local processes; 0 is one per core. Each that embeds texts loads the encoder."""

    def check_beam(self, verb: str, beam_flags: list[str]) -> None:
        """A flag that nobody knows is a typing error, found before any work starts."""
        if not beam_flags:
            return  # Beam takes half a second to import, and not every command runs it
        from apache_beam.options.pipeline_options import PipelineOptions

        left = PipelineOptions(beam_flags).get_all_options(retain_unknown_options=True)
        known = PipelineOptions([]).get_all_options()
        ours = [field.name.replace("_", "-") for field in dataclasses.fields(self)]
        for name in left:
            if name not in known and self.runner == "FnApiRunner":
                hint = did_you_mean(name.replace("_", "-"), ours)
                raise UsageError(f"unknown flag --{name}; {hint}")
        stray = [text for text in beam_flags[:1] if not text.startswith("-")]
        if stray:
            raise UsageError(f"{stray[0]!r} belongs to no flag; see `unisim {verb} --help`")


T = TypeVar("T", bound=BeamFlags)


def parse(kind: type[T], verb: str, description: str, argv: list[str]) -> tuple[T, list[str]]:
    """A verb's flags, and those that Beam is given as they are. Raises UsageError."""
    flags, beam_flags = tyro.cli(
        kind, args=argv, prog=f"unisim {verb}", description=description, return_unknown_args=True
    )
    flags.check_beam(verb, beam_flags)
    return flags, beam_flags


def say(line: str) -> None:
    """A line about the job, beside its output."""
    print(f"unisim: {line}", file=sys.stderr, flush=True)


def absolute(path: str) -> str:
    """The path as workers need it, whatever folder they run in."""
    from pipelines import files

    return os.path.abspath(path) if files.is_local(path) else path


def make_plan(flags: PlanFlags):
    """The `pipelines.plan.Plan` of the flags. Raises UsageError."""
    from pipelines import excluded, plan

    made = plan.make(
        [pair(text, "--source", "NAME=PATH") for text in flags.source],
        tiers=tiers(flags.tier or (DEFAULT_TIER,)),
        fps=dict(rate(text) for text in flags.fps),
        options=dict(option(text) for text in flags.option),
        prefix_dataset=flags.prefix_dataset,
        shard_mb=flags.shard_mb,
    )
    return excluded.without(made, flags.exclude) if flags.exclude else made


def pair(text: str, flag: str, form: str) -> tuple[str, str]:
    """`a=b` -> (a, b)."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"{flag} {text}: wanted {form}")
    return name, value


def tiers(texts: Sequence[str]) -> list[Tier]:
    """Each as `Tier.parse` reads it."""
    try:
        return [Tier.parse(text) for text in texts]
    except ValueError as e:
        raise UsageError(f"--tier: {e}") from e


def rate(text: str) -> tuple[str, float]:
    """`5` -> ("", 5.0), `bridge=5` -> ("bridge", 5.0)."""
    name, _, value = text.rpartition("=")
    try:
        return name, float(value)
    except ValueError as e:
        raise UsageError(f"--fps {text}: wanted RATE or NAME=RATE") from e


def option(text: str) -> tuple[str, float]:
    """`laion.min_similarity=0.3` -> ("laion.min_similarity", 0.3)."""
    form = "NAME.OPTION=NUMBER"
    name, value = pair(text, "--option", form)
    try:
        number = float(value)
    except ValueError as e:
        raise UsageError(f"--option {text}: wanted {form}") from e
    if not math.isfinite(number):
        raise UsageError(f"--option {text}: wanted a finite number")
    return name, number


def human(num_bytes: float) -> str:
    """`3.4 MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError
