"""Named configs: every module here with a `CONFIG` is one, called by its file's name."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

from schemas import UsageError, did_you_mean

if TYPE_CHECKING:
    from trainer.configs.config import TrainConfig


def names() -> list[str]:
    """The names that `get` knows, without importing anything."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "config")


def get(name: str) -> TrainConfig:
    """The config of that name.

    Raises:
        UsageError: if there is none.
    """
    if name not in names():
        raise UsageError(f"no config {name!r}, {did_you_mean(name, names())}")
    return importlib.import_module(f"{__name__}.{name}").CONFIG
