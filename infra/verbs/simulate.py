"""`unisim simulate`: actions in words in, a video out."""

# annotations stay values here: tyro reads those of a class that exists only inside `main`
import sys

DESCRIPTION = """Simulates actions one after another, each beginning where the one before ended.

Writes OUT/rollout.mp4, and OUT/rollout.png, a contact sheet with a captioned row per action.

examples:
  unisim simulate --checkpoint run --start table --action "push the red block left" --out demo
  unisim simulate --checkpoint run --start kitchen.jpg --action "open the drawer" \\
    --action "take the knife" --steps 64 --eta 2 --out demo
  unisim simulate --checkpoint base --finer sr48 --finer sr192 --start kitchen.jpg \\
    --action "open the drawer" --sampler dpm --out demo
"""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be done."""
    import dataclasses
    from pathlib import Path
    from typing import Literal

    import tyro

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Arguments:
        checkpoint: Path
        """The run's folder: the --out of `unisim train`."""
        finer: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
        """The folder of a super-resolution run that refines what comes before it; once per run,
        coarsest first."""
        start: str
        """What is seen first: a picture, or a prepared table (its first validation row)."""
        action: tyro.conf.UseAppendAction[tuple[str, ...]]
        """What is done, in words; give it again for what is done next."""
        out: Path
        """The folder for rollout.mp4 and rollout.png."""
        sampler: Literal["ancestral", "ddim", "dpm"] = "ancestral"
        """The paper's ancestral sampler, or DDIM or DPM-Solver++, which need fewer steps."""
        steps: int = 32
        """Denoising steps; the paper takes 256, fewer are faster and coarser."""
        eta: float = 1.0
        """Guidance strength: how far the action outweighs what follows without one; 0 is none."""
        low_noise: float = 0.1
        """Noise on what a super-resolution run refines, as a time of its schedule; more lets it
        change more."""
        seed: int = 0
        """Of the noise; equal seeds give equal videos."""
        t5: str | None = None
        """Folder of the T5 weights that the table was prepared with; none means the small random
        encoder."""

    args = tyro.cli(Arguments, prog="unisim simulate", description=DESCRIPTION, args=argv)
    _simulate(args)
    return 0


def _simulate(args) -> None:
    from pipelines.text import TextEncoder, check_directory
    from schemas import Tier, UsageError
    from trainer.simulate import (
        SamplerSpec,
        Simulator,
        describe,
        load_start,
        rollout,
        write_contact_sheet,
        write_mp4,
    )

    # all that can be wrong is found before a large text encoder is read
    if not args.action:
        raise UsageError("no --action was given; say what is done: --action 'push the red block'")
    trained = describe(args.checkpoint)[1].encoder
    encoder_info = check_directory(args.t5, compute=trained.compute, dtype=trained.dtype)
    step, info = describe(args.checkpoint, encoder_info)
    finest = describe(args.finer[-1], encoder_info)[1] if args.finer else info
    start = load_start(args.start, Tier.parse(finest.config.tier))
    sampler = SamplerSpec(
        method=args.sampler, steps=args.steps, eta=args.eta, low_noise=args.low_noise
    )
    _say(f"{args.checkpoint}: step {step}, {info.config.frames} frames per action")

    encoder = TextEncoder.load(args.t5, encoder_info)
    simulator = Simulator(args.checkpoint, _as_stored(encoder), encoder.info, sampler, args.finer)

    def done(count: int) -> None:
        _say(f"action {count}/{len(args.action)} simulated: {args.action[count - 1]}")

    result = rollout(simulator, start, args.action, args.seed, done)
    write_mp4(args.out / "rollout.mp4", result.video, info.fps)
    write_contact_sheet(args.out / "rollout.png", result.rows)
    _say(f"wrote {args.out / 'rollout.mp4'} and {args.out / 'rollout.png'}")


def _as_stored(encoder):
    """The encoder's `embed`, with the rounding that a table of its embeddings has."""
    from schemas.embedding import decode_embedding, encode_embedding

    info = encoder.info

    def embed(texts):
        rows = (encode_embedding(row, info.dtype) for row in encoder.embed(texts))
        return [decode_embedding(row, info.width, info.dtype) for row in rows]

    return embed


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
