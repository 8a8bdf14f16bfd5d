"""`unisim preflight`: what a training step would take of TPUs, without one."""

# annotations stay values here: tyro reads those of a class that exists only inside `main`
import json
import os
import re
import sys

DESCRIPTION = """Compiles the exact training step of a config for a slice of TPUs, on any machine.

Prints what the compiled program takes of each device: memory, FLOPs, collectives, a roofline, and
the days that a million steps would last. Needs libtpu: `pip install 'open-unisim[tpu]'`.
Exits with 0 if the step fits and nothing grew, else with 3.

examples:
  unisim preflight --config base --topology v3:16x32               tries meshes until one fits
  unisim preflight --config base --topology v5p:8x8x8 --batch-size 512 --mesh data=256,model=2
  unisim preflight --config base --topology v5p:8x8x8 --data table  does a host read it fast enough
  unisim preflight --config debug --topology v5e:2x2 --batch-size 8 --json > report.json
  unisim preflight --config debug --topology v5e:2x2 --batch-size 8 --against report.json
"""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be done."""
    import dataclasses
    from pathlib import Path
    from typing import Annotated, Literal

    import tyro

    from infra.verbs._config import config_name, parse

    os.environ["JAX_PLATFORMS"] = "cpu"  # or JAX would look for TPUs here
    from trainer import configs
    from trainer.configs.config import TrainConfig

    name = config_name(argv)
    chosen = configs.get(name)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Arguments:
        topology: str
        """The slice: GENERATION:SHAPE in chips, such as v3:16x32 (1,024 cores) or v5p:4x4x4."""
        mesh: str | None = None
        """data=N,model=N: devices over samples, and over the frames of a sample. Default: those
        that divide are tried, until one fits."""
        efficiency: float = 0.4
        """Share of the chips' full rate that the days are counted at."""
        json: bool = False
        """Print JSON."""
        against: Path | None = None
        """An earlier --json report; exit with 3 if memory, FLOPs or exchanged bytes have grown. Its
        mesh is taken, unless --mesh states another."""
        data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
        """A prepared table: measure too whether this machine, as one of the slice's hosts, reads it
        as fast as the chips train; once per table of several."""
        threshold: float = 0.05
        """Growth that --against still allows."""
        effort: Literal["least", "full"] = "least"
        """The compiler's. "full" takes several times as long for the machine code that training
        would run; what is reported hardly differs."""
        fields: Annotated[TrainConfig, tyro.conf.arg(name="")] = chosen
        config: Literal[tuple(configs.names())] = name  # type: ignore[valid-type]
        """Named values for all fields below; each can then be given on its own."""

    args = parse(Arguments, "preflight", DESCRIPTION, argv)
    return _preflight(name, args)


def _preflight(name: str, args) -> int:
    from infra.verbs._flags import say
    from schemas import UsageError
    from trainer.train.host import measure, open_host
    from trainer.train.preflight import preflight
    from trainer.train.report import check_earlier, growth

    if not args.threshold >= 0:
        raise UsageError(f"--threshold is {args.threshold}, wanted 0 or more")
    mesh = _mesh(args.mesh) if args.mesh else None
    before = _earlier(args.against) if args.against else None
    if before:
        same = {"config": name, "topology": args.topology, "effort": args.effort}
        check_earlier(before, same | {"batch_size": args.fields.batch_size} | (mesh or {}))
        mesh = {axis: before[axis] for axis in ("data", "model")}
    # what can be wrong with the table is known before anything is compiled
    host = open_host(args.fields, args.topology, args.data) if args.data else None
    report = preflight(
        name,
        args.fields,
        args.topology,
        mesh=mesh,
        efficiency=args.efficiency,
        effort=args.effort,
        say=say,
    )
    measured = measure(*host, report) if host and report.fits else None
    values = report.to_dict() | ({"host": measured.to_dict()} if measured else {})
    print(json.dumps(values, indent=2) if args.json else report)
    if measured and not args.json:
        print(measured)
    grown = growth(report, before, args.threshold) if before else []
    for line in grown:
        say(f"grew beyond {args.threshold:.0%}: {line}")
    return 3 if grown or not report.fits else 0


def _mesh(text: str) -> dict[str, int]:
    """`data=256,model=4` -> {"data": 256, "model": 4}."""
    from schemas import UsageError

    found = re.fullmatch(r"data=([1-9]\d*),model=([1-9]\d*)", text)
    if not found:
        raise UsageError(f"--mesh {text}: wanted data=N,model=N, such as data=256,model=4")
    return {"data": int(found[1]), "model": int(found[2])}


def _earlier(path) -> dict:
    from schemas import UsageError

    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise UsageError(f"--against {path}: cannot be read as JSON ({e})") from e
    if not isinstance(found, dict) or not found:
        raise UsageError(f"--against {path}: not a report; write one with --json")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
