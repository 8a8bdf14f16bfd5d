"""`unisim sources`: what can be read."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

DESCRIPTION = (
    """List the datasets that can be read; with NAME, explain how one is laid out on disk."""
)


@dataclasses.dataclass(frozen=True)
class SourcesFlags:
    """Which source to explain."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """A source's name; without it, all are listed."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags = tyro.cli(SourcesFlags, args=argv, prog="unisim sources", description=DESCRIPTION)
    from pipelines import sources

    if flags.name:
        print(explain(sources.get(flags.name).INFO))
        return 0
    print(f"{'name':<24}{'reads':<48}{'fps':>9}  {'slots':<24}{'paper':<16}licence")
    for name in sources.names():
        info = sources.get(name).INFO
        paper = f"{info.examples or '-'} × {info.weight or '-'}"
        what = f"{name:<24}{info.reads:<48}{_rate(info):>9}"
        print(f"{what}  {_slots(info):<24}{paper:<16}{info.license}")
    print("paper: examples × mixture weight. `unisim sources NAME` explains one.")
    return 0


def _rate(info) -> str:
    if info.native_fps is None:
        return "still" if info.target_fps is None else f"→{info.target_fps:g}"
    return f"{info.native_fps:g}→{info.target_fps or info.native_fps:g}"


def _slots(info) -> str:
    bodies = list(dict.fromkeys(slot.split("_")[0] for slot in info.slots))
    return ", ".join(bodies) or "-"


def explain(info) -> str:
    """A source for people: where to get it, how it must lie, what it becomes."""
    indented = "\n".join(f"    {line}" for line in info.layout.splitlines())
    return f"""{info.name}: {info.title}, {info.homepage}
  licence  {info.license}
  reads    {info.reads}
  rate     {_rate(info)} frames/s (recorded → in the table; --fps {info.name}=RATE changes it)
  slots    {", ".join(info.slots) or "none: the text is the action"}
  frames   {info.fit} to the tier's shape
  expects
{indented}
  then     unisim prepare --source {info.name}=PATH --out OUT
  If it is not found: PATH is the folder whose content is shown above, not the one over it."""
