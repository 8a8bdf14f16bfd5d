"""`Limits`: where the audit draws its lines, from a small TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path

from schemas import UsageError, did_you_mean

DEFAULT = Path(__file__).with_name("limits.toml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """The numbers of `limits.toml`, where each is explained, by section and name."""

    frames: dict[str, float]
    motion: dict[str, float]
    text: dict[str, float]
    leak: dict[str, float]
    drift: dict[str, float]

    @classmethod
    def load(cls, path: str | None = None) -> Limits:
        """Those of the file, and the project's own for what it leaves out.

        Raises:
            UsageError: if there is no such file, or it has another section, name or kind of value.
        """
        values = tomllib.loads(DEFAULT.read_text())
        if path is not None:
            for section, numbers in _read(path).items():
                _update(values, section, numbers, path)
        return cls(**values)


def _read(path: str) -> dict:
    try:
        return tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as e:
        raise UsageError(
            f"--limits {path}: cannot be read ({e}); wanted a TOML file like {DEFAULT.name}"
        ) from e


def _update(values: dict, section: str, numbers: object, path: str) -> None:
    if section not in values or not isinstance(numbers, dict):
        hint = did_you_mean(section, list(values))
        raise UsageError(f"--limits {path}: no section [{section}]; {hint}")
    for name, value in numbers.items():
        if name not in values[section]:
            hint = did_you_mean(name, list(values[section]))
            raise UsageError(f"--limits {path}: no {section}.{name}; {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"--limits {path}: {section}.{name} is {value!r}, wanted a number")
        values[section][name] = value
