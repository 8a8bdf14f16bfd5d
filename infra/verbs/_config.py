"""The fields of a training config as flags, which several verbs share."""

from __future__ import annotations

import dataclasses

from schemas import UsageError, did_you_mean


def config_name(argv: list[str]) -> str:
    """The value of --config, which decides the defaults of all other flags."""
    for i, argument in enumerate(argv):
        if argument == "--config" and i + 1 < len(argv):
            return argv[i + 1]
        if argument.startswith("--config="):
            return argument.partition("=")[2]
    return "debug"


def refuse_unknown(unknown: list[str], arguments: type) -> None:
    """Raises UsageError, with the nearest name, for what tyro made nothing of."""
    if not unknown:
        return
    from trainer.configs.config import TrainConfig
    from trainer.model import ModelConfig

    own = [f.name for f in dataclasses.fields(arguments)]
    fields = [f.name for f in dataclasses.fields(TrainConfig) if f.name != "model"]
    inner = [f"model.{f.name}" for f in dataclasses.fields(ModelConfig)]
    known = [name.replace("_", "-") for name in (*own, *fields, *inner) if name != "fields"]
    flag = unknown[0].partition("=")[0]
    if not flag.startswith("--"):
        raise UsageError(f"{flag!r} belongs to no flag; see --help")
    raise UsageError(f"unknown flag {flag}; {did_you_mean(flag[2:].replace('_', '-'), known)}")
