"""The fields of a training config as flags, which several verbs share."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import tyro

from schemas import UsageError, did_you_mean

T = TypeVar("T")


def config_name(argv: list[str]) -> str:
    """The last value of --config, which decides the defaults of all other flags."""
    name = "debug"
    for argument, following in zip(argv, [*argv[1:], None], strict=True):
        if argument == "--config" and following is not None:
            name = following
        if argument.startswith("--config="):
            name = argument.partition("=")[2]
    return name


def parse(arguments: type[T], verb: str, description: str, argv: list[str]) -> T:
    """A verb's flags. Raises UsageError, with the nearest name, for one that nobody knows."""
    flags, unknown = tyro.cli(
        arguments,
        prog=f"unisim {verb}",
        description=description,
        args=argv,
        return_unknown_args=True,
    )
    if unknown:
        raise _unknown(unknown[0], arguments)
    return flags


def _unknown(given: str, arguments: type) -> UsageError:
    from trainer.configs.config import TrainConfig
    from trainer.model import ModelConfig

    own = [f.name for f in dataclasses.fields(arguments)]
    fields = [f.name for f in dataclasses.fields(TrainConfig) if f.name != "model"]
    inner = [f"model.{f.name}" for f in dataclasses.fields(ModelConfig)]
    known = [name.replace("_", "-") for name in (*own, *fields, *inner) if name != "fields"]
    flag = given.partition("=")[0]
    if not flag.startswith("--"):
        return UsageError(f"{flag!r} belongs to no flag; see --help")
    return UsageError(f"unknown flag {flag}; {did_you_mean(flag[2:].replace('_', '-'), known)}")
