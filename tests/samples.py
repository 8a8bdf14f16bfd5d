"""The real samples that stand beside the project, where they are there."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "shared" / "data"


def sample(path: str) -> Path:
    """A real sample's path; skips the test, saying why, where the samples are absent."""
    found = ROOT / path
    if not found.exists():
        pytest.skip(f"the real sample ../shared/data/{path} is not beside this checkout")
    return found
