"""One module per dataset, found by its file name. Modules with a leading underscore are helpers."""

from __future__ import annotations

import importlib
import pkgutil
from typing import cast

from pipelines.episode import Source
from schemas import UsageError, did_you_mean


def names() -> list[str]:
    """The names of all sources, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def get(name: str) -> Source:
    """The source of that name. Raises UsageError, with the nearest name, if there is none."""
    if name not in names():
        raise UsageError(f"unknown source {name!r}; {did_you_mean(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    if not isinstance(module, Source):
        raise TypeError(f"pipelines/sources/{name}.py must define INFO, units, episodes and fake")
    return cast(Source, module)
