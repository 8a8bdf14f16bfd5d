"""The contract of every source: its fake through plan, prepare, audit and decoding, twice."""

from pathlib import Path

import pytest

from pipelines import sources
from pipelines.episode import Source, Unit
from schemas import DataError, Tier, mask_of
from tests.command import files_of, unisim
from tests.table import read_table


@pytest.mark.parametrize("name", sources.names())
def test_the_module_keeps_the_contract(name, fakes):
    source = sources.get(name)
    assert isinstance(source, Source)
    info = source.INFO
    assert info.name == name
    assert all([info.title, info.homepage, info.license, info.reads, info.layout])
    mask_of(info.slots)
    units = list(source.units(str(fakes[name])))
    assert units == list(source.units(str(fakes[name])))
    assert len({unit.id for unit in units}) == len(units) > 0
    assert all(isinstance(unit, Unit) and unit.cost >= 0 for unit in units)


@pytest.mark.parametrize("name", sources.names())
def test_the_fake_has_the_same_bytes_each_time(name, tmp_path):
    made = [sources.get(name).fake(tmp_path / str(i), 7) for i in range(2)]
    assert files_of(made[0]) == files_of(made[1])
    other = sources.get(name).fake(tmp_path / "other", 8)
    assert files_of(other) != files_of(made[0])


@pytest.mark.parametrize("name", sources.names())
def test_without_traps_nothing_is_lost(name, tmp_path):
    source = sources.get(name)
    path = source.fake(tmp_path, 1, traps=False)
    items = [item for unit in source.units(str(path)) for item in source.episodes(unit)]
    assert items and not [item for item in items if isinstance(item, DataError)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory, fakes) -> list[Path]:
    """All fakes through plan, prepare and audit, and prepared again by fewer workers."""
    made = [tmp_path_factory.mktemp("contract") / f"{n}-workers" for n in (2, 1)]
    given = [text for name, path in fakes.items() for text in ("--source", f"{name}={path}")]
    unisim("plan", *given, "--out", made[0])
    for out, workers in zip(made, (2, 1), strict=True):
        unisim("prepare", *given, "--out", out, "--workers", workers, "--error-budget", "1")
    assert "0 violations, 0 warnings" in unisim("audit", made[0]).stdout
    return made


def test_two_runs_have_the_same_bytes(tables):
    assert files_of(tables[0]) == files_of(tables[1])


@pytest.mark.parametrize("name", sources.names())
def test_its_records_decode(name, tables):
    chunks = [c for c in read_table(tables[0], Tier(24, 40, "raw")) if c.dataset == name]
    assert chunks
    declared = mask_of(sources.get(name).INFO.slots)
    for chunk in chunks:
        assert chunk.pixels().shape == (chunk.num_frames, 24, 40, 3)
        assert chunk.text.strip() == chunk.text != ""
        assert not (chunk.control_mask & ~declared).any()
    assert any(chunk.pixels().std() > 1 for chunk in chunks)
