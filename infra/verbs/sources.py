"""`unisim sources`: what can be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

DESCRIPTION = """List the datasets that can be read; with NAME, explain how one is laid out on disk,
where to get it, and how its own action values become control slots."""

_HEADER = """\
# The sources

One file per dataset. This page is made by `unisim sources --markdown`; do not edit it by hand.

"""


@dataclasses.dataclass(frozen=True)
class SourcesFlags:
    """Which source to explain."""

    name: Annotated[str, tyro.conf.Positional] = ""
    """A source's name; without it, all are listed."""

    markdown: bool = False
    """Print pipelines/sources/README.md."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags = tyro.cli(SourcesFlags, args=argv, prog="unisim sources", description=DESCRIPTION)
    from pipelines import sources

    names = [flags.name] if flags.name else sources.names()
    infos = [sources.get(name).INFO for name in names]
    if flags.markdown:
        print(_HEADER + _table(infos) + "".join(section(info) for info in infos), end="")
    elif flags.name:
        print(explain(infos[0]))
    else:
        print(_list(infos))
    return 0


def _list(infos) -> str:
    lines = [("name", "rate", "slots", "paper", "reads", "licence")]
    for info in infos:
        lines.append(
            (info.name, _rate(info), _bodies(info), _paper(info), info.reads, _short(info))
        )
    notes = (
        "rate: recorded → in the table, frames/s. paper: examples × mixture weight.",
        "`unisim sources NAME` explains one: directory, download, controls.",
    )
    return "\n".join([_aligned(lines), "", *notes])


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns as wide as their widest."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (zip(row, widths, strict=True) for row in rows)
    return "\n".join("  ".join(x.ljust(n) for x, n in row).rstrip() for row in padded)


def _short(info) -> str:
    return info.license.split(":")[0]


def _rate(info) -> str:
    if info.native_fps is None:
        return "still" if info.target_fps is None else f"any→{info.target_fps:g}"
    return f"{info.native_fps:g}→{info.target_fps or info.native_fps:g}"


def _rate_explained(info) -> str:
    if _rate(info) == "still":
        return "still images"
    change = "" if info.every_frame else f"; --fps {info.name}=RATE changes it"
    return f"{_rate(info)} frames/s (recorded → in the table{change})"


def _bodies(info) -> str:
    bodies = list(dict.fromkeys(slot.split("_")[0] for slot in info.slots))
    return ", ".join(bodies) or "-"


def _paper(info) -> str:
    return f"{info.examples or '-'} × {info.weight or '-'}"


def explain(info) -> str:
    """A source for people: where to get it, how it must lie, what it becomes."""
    return f"""{info.name}: {info.title}, {info.homepage}
  licence  {info.license}
  reads    {info.reads}
  rate     {_rate_explained(info)}
  paper    {_paper(info)} (examples × mixture weight)
  frames   {info.fit} to the tier's shape
  expects
{_indented(info.layout)}
  get it
{_indented(info.obtain)}
  controls
{_indented(_controls(info))}{_options(info)}
  then     unisim prepare --source {info.name}=PATH --out OUT
  If it is not found: PATH is the folder whose content is shown above, not the one over it."""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.strip("\n").splitlines())


def _options(info) -> str:
    if not info.options:
        return ""
    lines = [f"--option {info.name}.{o.name}={o.default:g}  {o.help}" for o in info.options]
    return "\n  options, with their defaults\n" + _indented("\n".join(lines))


def _controls(info) -> str:
    if not info.controls:
        return "none: the text is the action"
    rows = [("value", "unit", "slot", "kind", "mapping")]
    return _aligned([*rows, *(_control(control) for control in info.controls)])


def _control(control) -> tuple[str, str, str, str, str]:
    mapping = f"× {control.scale:g}" if control.scale != 1 else ""
    mapping += f" + {control.offset:g}" if control.offset else ""
    if control.low is not None or control.high is not None:
        mapping += f" clipped to {_bound(control.low)}..{_bound(control.high)}"
    if control.wrap:
        mapping += " wrapped to ±π"
    kind = "absolute" if control.absolute else "relative"
    return control.name, control.unit, control.slot, kind, mapping.strip()


def _bound(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _table(infos) -> str:
    lines = ["| source | reads | rate | slots | paper | licence |", "|---|---|---|---|---|---|"]
    for info in infos:
        lines.append(
            f"| [`{info.name}`](#{info.name}) | {info.reads} | {_rate(info)} | {_bodies(info)}"
            f" | {_paper(info)} | {_short(info)} |"
        )
    lines += ["", "rate: recorded → in the table, frames/s. paper: examples × mixture weight.", ""]
    return "\n".join(lines)


def section(info) -> str:
    """A source's part of pipelines/sources/README.md."""
    return f"\n## {info.name}\n\n```\n{explain(info)}\n```\n"
