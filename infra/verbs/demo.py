"""`unisim demo`: the main job on a small corpus of its own, by a user's own commands."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import tyro

from infra.demo.command import command

DESCRIPTION = """Make a small corpus in native formats, then prepare, audit, train and simulate.

The corpus is a tabletop world in which an arm tip pushes coloured blocks (as Bridge RLDS), a few
WebM clips in Something-Something V2's layout, and a LAION-like tar. Every step is a command that is
printed before it runs. A second run goes on where the first one was. About 5 minutes on 2 cores.
"""

WEIGHTS = ("bridge", 0.9, "something_something_v2", 0.05, "laion", 0.05)
ACTIONS = ("push the red block left", "push the blue block right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoFlags:
    """Where to, and how much."""

    out: str = "demo"
    """The folder for corpus, table, run and rollout."""

    episodes: int = 240
    """Episodes of the tabletop world."""

    steps: int = 300
    """Training steps."""


def main(argv: list[str]) -> int:
    """Runs the verb."""
    flags = tyro.cli(DemoFlags, args=argv, prog="unisim demo", description=DESCRIPTION)
    begin = time.monotonic()
    out = Path(flags.out)
    corpus = _corpus(out / "corpus", flags.episodes)
    table, run, rollout = out / "table", out / "run", out / "rollout"
    report = out / "audit.html"
    given = [text for name, path in corpus.items() for text in ("--source", f"{name}={path}")]
    fresh = not (table / "manifest.json").exists()
    prepared = command("prepare", *given, "--out", table, "--shard-mb", 8)
    command("audit", table, "--report", report)
    # a loss in units of what is left to learn, as most of a frame is as it was before
    learned = ("--steps", flags.steps, "--prediction", "velocity", "--weights", *WEIGHTS)
    command("train", "--config", "debug", "--data", table, "--out", run, *learned)
    if not (rollout / "rollout.png").exists():
        actions = [text for action in ACTIONS for text in ("--action", action)]
        command("simulate", "--checkpoint", run, "--start", table, *actions, "--out", rollout)
    _summary(table, report, run, rollout, prepared if fresh else 0.0, time.monotonic() - begin)
    return 0


def _corpus(root: Path, episodes: int) -> dict[str, Path]:
    from infra.demo import write_corpus
    from infra.progress_bar import Bar

    print(f"writing {episodes} tabletop episodes, clips and images below {root}", flush=True)
    with Bar("corpus", episodes, "episodes") as bar:
        return write_corpus(root, episodes=episodes, tick=bar.add)


def _summary(
    table: Path, report: Path, run: Path, rollout: Path, prepared: float, seconds: float
) -> None:
    """What was made, how fast, and what to look at."""
    from pipelines.clock import clock

    manifest = json.loads((table / "manifest.json").read_text())
    encoder = manifest["encoders"][0]
    records = sum(d["chunks"] for d in manifest["datasets"])
    frames = sum(d["frames"] for d in manifest["datasets"])
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    tenth = max(1, len(losses) // 10)
    rate = f", {frames / prepared:,.0f} frames/s with start-up" if prepared else ""
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    print(
        f"""
demo done in {clock(seconds)}
  records    {records:,} of {frames:,} frames{rate}
  text       {encoder["name"]}: {encoder["description"]}
  loss       {first:.3f} over the first {tenth} steps, {last:.3f} over the last {tenth}
  look at    {rollout / "rollout.png"}   contact sheet: the start, then a row per action
             {rollout / "rollout.mp4"}   the same as a video
             {report}   the audit: licences, plots, pictures of the records
             {table / "manifest.json"}   what the table holds
  so small a model shows that every part works; it has not learned to push blocks yet"""
    )
