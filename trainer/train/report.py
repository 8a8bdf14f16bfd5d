"""`Report`: what a training step takes of each device, and what has grown since an earlier one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from schemas import UsageError

PAPER_DAYS = 20.0
"""What the paper's base model took: 1 M steps on 512 TPU-v3 chips."""

_GIB = 1 << 30
_STEPS = 1_000_000
# what --against compares: reports that are equal in these, by what may not grow
SAME = ("config", "topology", "data", "model", "batch_size", "effort")
WATCHED = ("parameters", "arguments", "temporaries", "peak", "flops", "exchanged")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What one training step takes of each device (a chip, or one of a chip's two cores).

    Attributes:
        config: its name. topology: "v3:16x32". data, model: the mesh.
        batch_size: samples of a step, over all devices.
        parameters: of the model.
        memory: bytes of HBM of a device.
        arguments, temporaries, output, aliased, code, peak: bytes that the program uses; peak is of
            all at once. All but `peak` are 0 if the compiler gave up for want of memory.
        flops: of matrix products and convolutions. moved: bytes to and from HBM.
        exchanged: bytes received from other devices. collectives: kind -> count and bytes.
        compute, hbm, links: seconds that each of these three would take alone, at full rate.
        efficiency: the stated share of the full rate.
        effort: the compiler's.
        compiled: seconds that compiling took here.
    """

    config: str
    topology: str
    devices: int
    data: int
    model: int
    batch_size: int
    parameters: int
    memory: int
    peak: int
    arguments: int = 0
    temporaries: int = 0
    output: int = 0
    aliased: int = 0
    code: int = 0
    flops: float = 0.0
    moved: float = 0.0
    exchanged: float = 0.0
    collectives: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    compute: float = 0.0
    hbm: float = 0.0
    links: float = 0.0
    efficiency: float
    effort: str
    compiled: float

    @property
    def fits(self) -> bool:
        """Whether the step runs within a device's memory."""
        return self.peak <= self.memory

    @property
    def binds(self) -> str:
        """What limits the step: memory that is not there, or the slowest of the three rates."""
        if not self.fits:
            return "memory"
        times = {"compute": self.compute, "hbm": self.hbm, "interconnect": self.links}
        return max(times, key=lambda name: times[name])

    @property
    def seconds(self) -> float:
        """Of a step at full rate, everything overlapping."""
        return max(self.compute, self.hbm, self.links)

    @property
    def days(self) -> float:
        """Of a million steps at the stated efficiency."""
        return self.seconds / self.efficiency * _STEPS / 86400

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with what follows from them."""
        derived = ("fits", "binds", "seconds", "days")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        gib = {n: f"{getattr(self, n) / _GIB:.2f}" for n in ("arguments", "temporaries", "peak")}
        lines = [
            f"{self.config} on {self.topology}: {self.devices} devices, mesh data={self.data},"
            f"model={self.model}, batch {self.batch_size}",
            f"  parameters    {self.parameters / 1e9:.4g} B",
            f"  GiB a device  arguments {gib['arguments']}, temporaries {gib['temporaries']}, peak"
            f" {gib['peak']} of {self.memory / _GIB:.0f}",
        ]
        if self.flops:
            lines += self._rates()
        verdict = "fits" if self.fits else "does not fit"
        return "\n".join([*lines, f"  verdict       {verdict}; {self.binds} binds"])

    def _rates(self) -> list[str]:
        kinds = ", ".join(
            f"{kind} {c['count']:.0f} x, {c['bytes'] / 1e9:.3g} GB"
            for kind, c in self.collectives.items()
        )
        return [
            f"  a step        {self.flops / 1e12:.4g} TFLOP, {self.moved / 1e9:.4g} GB of HBM,"
            f" {self.exchanged / 1e9:.4g} GB received",
            f"  collectives   {kinds or 'none'}",
            f"  roofline      compute {self.compute:.3g} s, HBM {self.hbm:.3g} s, interconnect"
            f" {self.links:.3g} s",
            f"  step time     {self.seconds:.3g} s at 100%, {self.seconds / self.efficiency:.3g} s"
            f" at {self.efficiency:.0%}: {self.days:.3g} days for 1 M steps (the paper's"
            f" base model: {PAPER_DAYS:.0f})",
            f"  compiled in   {self.compiled:.0f} s, with {self.effort} effort",
        ]


def check_earlier(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UsageError if an earlier report's `to_dict` is of another thing than `wanted` says, or
    is no report; so it is known before anything is compiled."""
    numbers = ("data", "model", *WATCHED)
    missing = [name for name in numbers if not _is_number(before.get(name))]
    if missing:
        raise UsageError(
            f"--against: not a report of this version (no number {missing[0]!r}); write it anew"
        )
    for name, value in wanted.items():
        if before.get(name) != value:
            raise UsageError(
                f"--against: that report's {name} is {before.get(name)!r}, this one's is"
                f" {value!r}; compare equal things"
            )


def growth(report: Report, before: Mapping[str, Any], threshold: float) -> list[str]:
    """What has grown by more than `threshold` (0.05 is 5%) since an earlier report's `to_dict`.

    Raises:
        UsageError: if that was of another config, slice, mesh, batch or effort, or is no report.
    """
    now = report.to_dict()
    check_earlier(before, {name: now[name] for name in SAME})
    pairs = {name: (before[name], now[name]) for name in WATCHED}
    return [
        f"{name} {old:.4g} -> {new:.4g} (+{new / old - 1:.1%})" if old else f"{name} 0 -> {new:.4g}"
        for name, (old, new) in pairs.items()
        if new > old * (1 + threshold)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
