"""`unisim show`: one record, in the terminal and as a picture."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import tyro

from infra.verbs._flags import absolute

DESCRIPTION = """Show one record of a table: its action, its controls, its passport.

KEY is DATASET/EPISODE/STEP, as errors, the audit and `unisim why` write it.

examples:
  unisim show bridge/train-00000-000001@image_0/0 --data table
  unisim show bridge/train-00000-000001@image_0/0 --data table --png record.png --mp4 record.mp4
"""
_BARS = "▁▂▃▄▅▆▇█"
_PASSPORT = ("source_uri", "source_range", "source_version", "license", "recipe")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowFlags:
    """Which record of which table."""

    key: Annotated[str, tyro.conf.Positional]
    """The record."""

    data: str
    """The prepared table: the --out of `unisim prepare`."""

    tier: str | None = None
    """The resolution of pictures, as 24x40; default: the largest."""

    png: Path | None = None
    """Write its frames side by side here, with the actions drawn on them."""

    mp4: Path | None = None
    """Write them here as a video."""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be shown."""
    flags = tyro.cli(ShowFlags, prog="unisim show", description=DESCRIPTION, args=argv)
    from pipelines.audit import Opened
    from pipelines.audit.lookup import Lookup
    from schemas import DataError, UsageError

    lookup = Lookup(Opened(absolute(flags.data)))
    tier = _tier(lookup, flags.tier)
    row = lookup.find(flags.key)
    try:
        chunk = lookup.chunk(row, tier)
        _print(chunk, row)
        _pictures(flags, chunk)
    except DataError as e:
        raise UsageError(f"{flags.key}: {e.reason}; see `unisim audit {flags.data}`") from e
    return 0


def _tier(lookup, name: str | None):
    from schemas import UsageError

    if name is None:
        return lookup.best_tier(10_000)
    found = {tier.name: tier for tier in lookup.table.tiers}
    if name.partition(":")[0] not in found:
        raise UsageError(f"--tier {name}: the table has {', '.join(found)}")
    return found[name.partition(":")[0]]


def _print(chunk, row) -> None:
    from pipelines.audit.check import shown

    first, last = (chunk.times[i] for i in (0, -1))
    rate = f"{chunk.fps:g} frames/s" if chunk.fps else "a still image"
    ends = " and ".join(name for name in ("first", "last") if getattr(chunk, f"is_{name}"))
    print(shown(chunk.key))
    print(f"  {shown(chunk.text)}")
    print(
        f"  {chunk.split}, {chunk.num_frames} frames, {rate}, {first:.2f} s to {last:.2f} s of its"
        f" episode{f', its {ends} record' if ends else ''}"
    )
    _print_controls(chunk, row)
    width = shutil.get_terminal_size().columns
    for name in _PASSPORT:
        lines = textwrap.wrap(shown(getattr(chunk, name)), max(width - 20, 40)) or [""]
        print(f"  {name:<16}{lines[0]}")
        for line in lines[1:]:
            print(f"  {'':<16}{line}")


def _print_controls(chunk, row) -> None:
    """A line per slot: its course, its least and greatest value, how often it was clipped."""
    from schemas import SLOTS

    clipped = dict(row["clipped_slots"] or ())
    for i, slot in enumerate(SLOTS):
        if chunk.control_mask[i]:
            values = chunk.controls[:, i].tolist()
            cut = f", {clipped[slot.name]} clipped" if slot.name in clipped else ""
            unit = "" if slot.unit == "1" else f" {slot.unit}"
            print(
                f"  {slot.name:<16}{sparkline(values)}  {min(values):+.4g} to"
                f" {max(values):+.4g}{unit}{cut}"
            )


def sparkline(values: list[float]) -> str:
    """A bar per value between the least and the greatest of them; the middle if they are one."""
    low, high = min(values), max(values)
    if not high > low:
        return _BARS[len(_BARS) // 2 - 1] * len(values)
    return "".join(_BARS[round((v - low) / (high - low) * (len(_BARS) - 1))] for v in values)


def _pictures(flags: ShowFlags, chunk) -> None:
    from pipelines.audit import picture
    from pipelines.audit.output import renamed, write_bytes

    if flags.png:
        write_bytes(flags.png, picture.png(picture.strip(chunk, columns=chunk.num_frames)))
        print(f"wrote {flags.png}", file=sys.stderr)
    if flags.mp4:
        from pipelines.ops.video import write_video

        frames = [picture.drawn(chunk, f, i, 240) for i, f in enumerate(chunk.pixels())]
        even = [f[: f.shape[0] // 2 * 2, : f.shape[1] // 2 * 2] for f in frames]
        with renamed(flags.mp4) as temporary:
            write_video(str(temporary), even, max(chunk.fps, 1.0), "libx264")
        print(f"wrote {flags.mp4}", file=sys.stderr)
