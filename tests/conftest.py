"""Tables that several tests read; each is prepared once per session by the real command."""

from pathlib import Path

import pytest
from hypothesis import settings

from pipelines import sources
from tests.command import unisim
from tests.samples import sample

# the same examples in every run, however slow the machine is that day; `make fuzz` and
# `--hypothesis-profile default` look further
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

BRIDGE = "bridge/bridge_dataset/1.0.0"


@pytest.fixture(scope="session")
def bridge_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real Bridge sample at 24×40, and at its own 64×64, where no pixel is resized."""
    out = tmp_path_factory.mktemp("tables") / "bridge"
    source = f"bridge={sample(BRIDGE)}"
    unisim(
        "prepare", "--source", source, "--out", out, "--tier", "24x40:raw", "--tier", "64x64:raw"
    )
    return out


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The native fake corpus, traps included, of every source."""
    root = tmp_path_factory.mktemp("fakes")
    return {name: sources.get(name).fake(root / name, 0) for name in sources.names()}


@pytest.fixture(scope="session")
def fake_flags(fakes: dict[str, Path]) -> list[str]:
    """Flags that prepare all fakes in several shards each."""
    flags = [text for name, path in fakes.items() for text in ("--source", f"{name}={path}")]
    return [*flags, "--shard-mb", "0.05", "--error-budget", "1", "--tier", "24x40:raw"]


@pytest.fixture(scope="session")
def fake_table(tmp_path_factory: pytest.TempPathFactory, fake_flags: list[str]) -> Path:
    """All fakes as one table with two tiers, raw and JPEG."""
    out = tmp_path_factory.mktemp("tables") / "fakes"
    unisim("prepare", *fake_flags, "--tier", "48x80:jpeg", "--out", out, "--workers", 2)
    return out
