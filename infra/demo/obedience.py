"""Does a trained model do as it is told? From equal starts and equal noise, five commands.

A corpus of one block and its commands goes through `unisim prepare`; `--config laptop` learns from
it; and the trained model simulates every command from starts that it has not seen, once from the
text alone and once from the controls alone.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from infra.demo.command import command
from infra.demo.corpus import HEIGHT, WIDTH, bridge_record
from infra.demo.one_block import COMMANDS, FRAMES, STAY, counterfactuals, episode, obeys
from schemas import UsageError

DESCRIPTION = """Train `--config laptop` in a world of one block, and measure what it obeys.

Prints a learning curve: of starts that training never sees, the share in which the block goes the
commanded way, by text alone and by controls alone, and the share in which it stays when told to.
The same command again goes on where it stopped. Writes OUT/curve.jsonl and OUT/obedience.png.
"""

TIER = "12x20"
WAYS = ("text", "controls")
CURVE, PICTURE = "curve.jsonl", "obedience.png"
_RATE = 5  # Bridge's frames per second
_COMPLETE = "complete.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """Where to, and how much."""

    out: Path = Path("obedience")
    """The folder for corpus, table, run, curve and picture."""

    episodes: int = 6000
    """Episodes to learn from."""

    starts: int = 32
    """Starts to measure on; training never sees them."""

    steps: int = 2000
    """Training steps."""

    batch_size: int = 16
    """Samples of a step."""

    measure_every: int = 400
    """Steps between measurements."""

    frames: int = FRAMES
    """Frames that follow a command: 8, or 4 or 2 of them, for half or a quarter of the work."""

    sampling_steps: int = 16
    """Denoising steps of DPM-Solver++(2M)."""

    eta: float = 1.0
    """Guidance strength."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """What is measured on: n starts, c commands from each.

    Attributes:
        starts: uint8 `[n, h, w, 3]`.
        bins: int `[n, c, T, S]`, the controls that carry a command out; mask: bool `[S]`.
    """

    starts: np.ndarray
    bins: np.ndarray
    mask: np.ndarray


def main(argv: list[str]) -> int:
    """Runs the command."""
    flags = tyro.cli(Flags, args=argv, prog="make obedience", description=DESCRIPTION)
    try:
        curve = learn(flags, prepare(flags))
    except UsageError as e:
        print(f"make obedience: {e}", file=sys.stderr)
        return 2
    _summary(flags, curve[-1])
    return 0


def prepare(flags: Flags) -> Path:
    """The world's table, made or found."""
    table = flags.out / "table"
    corpus = write_corpus(flags.out / "corpus", flags.episodes, flags.starts)
    rate = _RATE * flags.frames / FRAMES
    given = ("--source", f"bridge={corpus}", "--tier", TIER, "--fps", rate, "--shard-mb", 8)
    command("prepare", *given, "--out", table)
    return table


def write_corpus(root: Path, episodes: int, starts: int, seed: int = 0) -> Path:
    """Writes the world's episodes as Bridge RLDS, or finds them there: split "train", and in "val"
    every command from each start."""
    from infra.progress_bar import Bar
    from pipelines.sources import bridge

    wanted = {"episodes": episodes, "starts": starts, "seed": seed}
    folder, stamp = root / "bridge_dataset" / "1.0.0", root / _COMPLETE
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    train, val = [], []
    with Bar("corpus", episodes + starts, "starts") as bar:
        for i in range(starts):
            rng = np.random.default_rng((seed, 1, i))
            for pushed in counterfactuals(rng, HEIGHT, WIDTH):
                val.append(bridge_record(pushed, len(val)))
            bar.add(1)
        for i in range(episodes):
            pushed = episode(np.random.default_rng((seed, 0, i)), HEIGHT, WIDTH)
            train.append(bridge_record(pushed, len(val) + i))
            bar.add(1)
    shards = [train[i::4] for i in range(4)]
    bridge.write_rlds(folder, "bridge_dataset", {"train": shards, "val": [val]})
    stamp.write_text(json.dumps(wanted))
    return folder


def held_out(table: Path) -> Held:
    """The starts of a table's split "val", and the controls of every command."""
    from trainer.data import Table

    data = Table(str(table), TIER)
    chunks = data.chunks(data.rows("val").tolist())
    count = len(COMMANDS)
    groups = [chunks[i : i + count] for i in range(0, len(chunks), count)]
    if not groups or any([c.text for c in group] != list(COMMANDS) for group in groups):
        raise UsageError(f"{table}: split val has not every command from each start, in order")
    return Held(
        starts=np.stack([group[0].pixels()[0] for group in groups]),
        # the first row of controls is the start's own, which nothing led to
        bins=np.stack([[c.control_bins[1:] for c in group] for group in groups]),
        mask=groups[0][0].control_mask,
    )


def learn(flags: Flags, table: Path, **changes: Any) -> list[dict]:
    """Trains, measures on the way, and returns the curve's points.

    Args:
        changes: fields of the training config.
    """
    import jax

    from trainer import configs
    from trainer.train import train

    jax.config.update("jax_compilation_cache_dir", str(flags.out.absolute() / "compiled"))
    run, held, path = flags.out / "run", held_out(table), flags.out / CURVE
    config = dataclasses.replace(
        configs.get("laptop"),
        frames=flags.frames,
        batch_size=flags.batch_size,
        log_every=100,
        save_every=flags.measure_every,
        keep=1,
        **changes,
    )
    curve = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    steps = (1, *range(flags.measure_every, flags.steps, flags.measure_every), flags.steps)
    print(f"{len(held.starts)} starts, {len(COMMANDS)} commands; untrained first", flush=True)
    for step in steps[len(curve) :]:
        begin = time.monotonic()
        result = train(dataclasses.replace(config, steps=step), data=str(table), out=run)
        minutes = (time.monotonic() - begin) / 60 + (curve[-1]["minutes"] if curve else 0)
        made = simulate(flags, table, run, held)
        curve.append({"step": step, "minutes": minutes, "loss": result.last_loss})
        curve[-1] |= score(held, made)
        picture(flags.out / PICTURE, held, made)
        path.write_text("".join(json.dumps(point) + "\n" for point in curve))
        print(_line(curve[-1]), flush=True)
    return curve


def simulate(flags: Flags, table: Path, run: Path, held: Held) -> dict[str, np.ndarray]:
    """What the model makes of every command, by text and by controls: uint8 `[n, c, T, h, w, 3]`.

    The noise of a start is the same for all.
    """
    import jax

    from trainer.data import EMPTY, Embeddings, Table
    from trainer.data.example import past_frames
    from trainer.simulate import Controls, SamplerSpec, Simulator

    data = Table(str(table), TIER)
    embeddings = Embeddings.of(data)
    sampler = SamplerSpec(method="dpm", steps=flags.sampling_steps, eta=flags.eta)
    simulator = Simulator(
        run, lambda texts: [embeddings.lookup(text) for text in texts], embeddings.info, sampler
    )
    n = len(held.starts)
    history, there = past_frames(held.starts[None], simulator.history)
    history, there = history.swapaxes(0, 1), np.broadcast_to(there, (n, len(there)))
    mask = np.broadcast_to(held.mask, (n, len(held.mask)))
    made: dict[str, list] = {way: [] for way in WAYS}
    for i, text in enumerate(COMMANDS):
        for way, texts, slots in (
            ("text", [text] * n, np.zeros_like(mask)),
            ("controls", [EMPTY] * n, mask),
        ):
            controls = Controls(held.bins[:, i], slots)
            made[way].append(simulator.step(history, there, texts, jax.random.key(0), controls))
    return {way: np.stack(videos, 1) for way, videos in made.items()}


def score(held: Held, made: dict[str, np.ndarray]) -> dict[str, float]:
    """The share of starts that obey, for every way and command, and over all pushes."""
    found = {}
    for way, videos in made.items():
        pairs = list(zip(held.starts, videos[:, :, -1], strict=True))
        shares = {
            text: float(np.mean([obeys(text, start, ends[i]) for start, ends in pairs]))
            for i, text in enumerate(COMMANDS)
        }
        pushes = [share for text, share in shares.items() if text != STAY]
        found |= {f"{way}: {text}": share for text, share in shares.items()}
        found[f"{way}: pushes"] = float(np.mean(pushes))
    return found


def picture(path: Path, held: Held, made: dict[str, np.ndarray], start: int = 0) -> None:
    """A contact sheet of all that follows from one start."""
    from trainer.simulate import write_contact_sheet

    rows = [("start", held.starts[start][None])]
    for i, text in enumerate(COMMANDS):
        for way in WAYS:
            rows.append((f"{len(rows)}. {text} ({way} alone)", made[way][start, i]))
    write_contact_sheet(path, rows)


def _line(point: dict) -> str:
    shares = "  ".join(
        f"{way}: pushes {point[f'{way}: pushes']:.0%}, stay {point[f'{way}: {STAY}']:.0%}"
        for way in WAYS
    )
    return f"step {point['step']}, {point['minutes']:.1f} min, loss {point['loss']:.3f}  {shares}"


def _summary(flags: Flags, last: dict) -> None:
    print(f"\nobeyed, of {flags.starts} starts that training never saw:")
    print("  command       " + "".join(f"{way:>10}" for way in WAYS))
    for text in (*COMMANDS, "pushes"):
        shares = "".join(f"{last[f'{way}: {text}']:>10.0%}" for way in WAYS)
        print(f"  {text:<14}{shares}")
    print(f"  trained in {last['minutes']:.1f} minutes; look at {flags.out / PICTURE}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
