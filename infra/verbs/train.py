"""`unisim train`: a prepared table in, a simulator out."""

# annotations stay values here: tyro reads those of a class that exists only inside `main`
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

DESCRIPTION = """Trains the video diffusion model on a prepared table, on all devices JAX finds.

It checkpoints as it goes; the same command again resumes from the last checkpoint that is whole,
and ends with the parameters that an uninterrupted run would have had. On SIGTERM it saves and ends.

examples:
  unisim train --config debug --data table --out run           a small model, minutes on a CPU
  unisim train --config debug --data table --out run --steps 700        go on for 200 steps more
  unisim train --config base --data table --out run --dry-run  the config and the mixture only
  unisim train --config base --data gs://bucket/table --out run         the paper's base model
  unisim train --config debug --data table --out run2 --model.channels 48 --weights bridge 1
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFlags:
    """What is trained on, where the run is, and what it does when it ends."""

    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """The prepared table: the --out of `unisim prepare`, a folder or a URI; once per table of
    several, which are trained on as one."""
    out: Path
    """The run's folder: gets config.json, metrics.jsonl and checkpoints/."""
    encoder: str | None = None
    """Whose embeddings of the texts: a folder under text/. Default: the table's own; `unisim
    audit` names them, `unisim embed` adds one."""
    dry_run: bool = False
    """Print the config, all fields resolved, and the mixture with its epochs; train nothing."""
    accept_changes: bool = False
    """Go on with a run though its table or config is not what it began with."""
    stopped_code: int = 0
    """Exit code when SIGTERM stopped the run and it was saved, as a scheduler may take 0 for
    the end of it all."""
    coordinator: str | None = None
    """HOST:PORT of the first process, of several that train as one; with --processes and
    --process."""
    processes: int | None = None
    """How many they are."""
    process: int | None = None
    """Which of them this one is, from 0."""
    distributed: bool = False
    """One of several processes that find each other, as on a slice of TPUs and under Slurm."""


def main(argv: list[str]) -> int:
    """Runs the verb. Raises UsageError for what cannot be done."""
    from infra.verbs._config import config_name, parse
    from trainer import configs
    from trainer.configs.config import TrainConfig

    name = config_name(argv)
    chosen = configs.get(name)

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Arguments(RunFlags):
        fields: Annotated[TrainConfig, tyro.conf.arg(name="")] = chosen
        config: Literal[tuple(configs.names())] = name  # type: ignore[valid-type]
        """Named values for all fields below; each can then be given on its own."""

    args = parse(Arguments, "train", DESCRIPTION, argv)

    from trainer.train import say_on_stderr, set_up, train
    from trainer.train.processes import join

    if args.distributed or (args.coordinator, args.processes, args.process) != (None, None, None):
        join(args.coordinator, args.processes, args.process)
    if args.dry_run:
        setup = set_up(args.fields, args.data, args.encoder, say_on_stderr)
        print(json.dumps(setup.config.to_dict(), indent=2))
        for line in setup.describe():
            print(line, file=sys.stderr)
        return 0
    result = train(
        args.fields,
        data=args.data,
        out=args.out,
        encoder=args.encoder,
        accept_changes=args.accept_changes,
    )
    return args.stopped_code if result.stopped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
