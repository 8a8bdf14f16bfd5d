"""`unisim why`: where samples and records came from, and what a raw file became."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from schemas import UsageError

DESCRIPTION = """From a training step, a record or a raw file to what it was made of, and back.

A step (--run, --step): its exact samples, with their passports. Nothing was logged for it: the
order of samples is a function of the run's config, its table and the step. Step n is the one that
moved the parameters from n steps done to n + 1 steps done, so a loss printed as "step 500" is that
of --step 499.

A raw file (URI, --data): every record that was made from it. A record (KEY, --data): the raw bytes
that it came from; with --verify it is made from them again, and compared.

examples:
  unisim why --run run --step 499                      every sample of the step
  unisim why --run run --step 499 --position 3 --json  one of them, for a machine
  unisim why --run run --step 499 --show step.png      and a contact sheet of their frames
  unisim why videos/0001.mp4 --data table              every record that was made from a file
  unisim why bridge/train-00000-000001@image_0/0 --data table --verify --show both.png
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhyFlags:
    """What is asked about."""

    what: Annotated[str, tyro.conf.Positional] = ""
    """A raw file or folder as records name it (or a path that ends so), or DATASET/EPISODE/STEP."""

    run: Path | None = None
    """The run's folder: the --out of `unisim train`."""

    step: int | None = None
    """The optimiser step, from 0."""

    position: int | None = None
    """A place in the batch, from 0; default: all of them."""

    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """The table. With --run only if it is no longer where the run read it; once per table of
    several."""

    verify: bool = False
    """Make the records again from the raw data, and compare them with the table's."""

    source: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """With --verify: NAME=PATH of raw data that is no longer where it was prepared from."""

    show: Path | None = None
    """Write a contact sheet here (PNG): of the samples, or of records above what is made again."""

    json: bool = False
    """Print JSON Lines."""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be done."""
    flags = tyro.cli(WhyFlags, prog="unisim why", description=DESCRIPTION, args=argv)
    if flags.what:
        from infra.verbs import _origin

        if len(flags.data) != 1 or flags.run is not None:
            raise UsageError(f"{flags.what}: wanted --data TABLE, one, and no --run")
        return _origin.tell(flags)
    if flags.run is None or flags.step is None:
        raise UsageError("wanted --run RUN --step N, or a raw file or record with --data TABLE")

    from trainer.data import consumed
    from trainer.train import say_on_stderr
    from trainer.train.setup import trained_on

    _, table, order = trained_on(flags.run, flags.data, say_on_stderr)
    positions = None if flags.position is None else [flags.position]
    samples = consumed(table, order, flags.step, positions)
    for sample in samples:
        print(json.dumps(_fields(sample)) if flags.json else _text(sample))
    if flags.show is not None:
        _sheet(flags.show, samples)
        print(f"wrote {flags.show}", file=sys.stderr)
    return 0


_PASSPORT = ("source_uri", "source_range", "source_version", "license", "recipe")


def _fields(sample) -> dict:
    chunk = sample.chunk
    return {
        "step": sample.step,
        "position": sample.position,
        "row": sample.row,
        "begin": sample.begin,
        "key": chunk.key,
        "split": chunk.split,
        "text": chunk.text,
        "frames": chunk.num_frames,
        **{name: getattr(chunk, name) for name in _PASSPORT},
    }


def _text(sample) -> str:
    chunk = sample.chunk
    begin = f" from frame {sample.begin} on" if sample.begin else ""
    lines = [
        f"position {sample.position}: {chunk.key}, row {sample.row}{begin},"
        f" {chunk.num_frames} frames, {chunk.text!r}"
    ]
    lines += [f"  {name:<15}{value}" for name in _PASSPORT if (value := getattr(chunk, name))]
    return "\n".join(lines)


def _sheet(path: Path, samples) -> None:
    from trainer.simulate import write_contact_sheet

    rows = [(f"{s.position}: {s.chunk.key}  {s.chunk.text}", s.chunk.pixels()) for s in samples]
    write_contact_sheet(path, rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
