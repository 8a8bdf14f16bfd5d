"""The `unisim` command: a verb is a module in infra/verbs, imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys

# name -> one line, so that `unisim --help` imports nothing else; order is that of the work
VERBS = {
    "sources": "list the datasets that can be read, and how each is laid out",
    "plan": "list what `prepare` would do, and its price, before anything runs",
    "prepare": "turn raw data into a table of (action in, video out) records, with Beam",
    "embed": "embed a table's new texts, or all of them with another text encoder",
    "forget": "remove records by source, licence or URI, with what was made of them",
    "audit": "re-read every record of a table and check it",
    "show": "show one record: in the terminal, as a picture, as a video",
    "stage": "copy what a run needs of a table to a disk near by, and check it",
    "train": "train a simulator on a table",
    "why": "tell where a step's samples or a record came from, and what a raw file became",
    "goodput": "tell where the wall time of a run went",
    "preflight": "compile a training step for TPUs without one: does it fit, how long does it take",
    "jobset": "print the manifest of a training run on a slice of TPUs in GKE",
    "simulate": "roll a trained simulator out from an image and a list of actions",
    "demo": "make a small corpus and run all of the above on it",
}


def usage() -> str:
    """What `unisim --help` prints."""
    lines = ["usage: unisim VERB …", ""]
    lines += [f"  {name:<10} {summary}" for name, summary in VERBS.items()]
    lines += [
        "",
        "`unisim VERB --help` explains a verb. Start with:",
        "",
        "  unisim prepare --source bridge=PATH --out OUT",
        "  unisim train --config debug --data OUT --out RUN",
        '  unisim simulate --checkpoint RUN --start OUT --action "put the carrot on the plate" '
        "--out DIR",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs one verb. Returns the exit code: 0, the verb's own, or 2 for a misused command."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb = argv[0].replace("-", "_")
    if argv[0] not in VERBS:
        from schemas.errors import did_you_mean

        return _refuse(f"unknown verb {argv[0]!r}; {did_you_mean(argv[0], list(VERBS))}")
    from infra import logs
    from schemas.errors import UsageError

    logs.configure()
    try:
        return importlib.import_module(f"infra.verbs.{verb}").main(argv[1:])
    except UsageError as e:
        return _refuse(str(e))
    except BrokenPipeError:
        # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("unisim: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _refuse(message: str) -> int:
    print(f"unisim: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
