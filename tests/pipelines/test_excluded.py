"""Auditors' verdicts decide what the next table holds."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import sources
from schemas import Tier
from schemas.verdicts import VERDICT_SCHEMA
from tests.command import files_of, unisim
from tests.table import read_table

TIER = Tier(24, 40, "raw")


def test_an_episode_of_which_a_record_was_rejected_is_left_out(tmp_path):
    raw = sources.get("bridge").fake(tmp_path / "raw", 0)
    flags = ("prepare", "--source", f"bridge={raw}", "--error-budget", 1, "--workers", 1, "--out")
    unisim(*flags, tmp_path / "all")
    everything = read_table(tmp_path / "all", TIER)
    gone = everything[1]
    assert gone.step == 1
    said = (
        ("bridge", gone.episode_id, 1, "reject"),
        ("bridge", everything[-1].episode_id, 0, "accept"),
        ("other", everything[-1].episode_id, 0, "reject"),
    )
    rows = [dict(zip(VERDICT_SCHEMA.names, (*each, ""), strict=True)) for each in said]
    verdicts = tmp_path / "verdicts.parquet"
    pq.write_table(pa.Table.from_pylist(rows, VERDICT_SCHEMA), verdicts)
    unisim(*flags, tmp_path / "some", "--exclude", verdicts)
    left = read_table(tmp_path / "some", TIER)
    wanted = [c for c in everything if c.episode_id != gone.episode_id]
    assert [c.key for c in left] == [c.key for c in wanted]
    assert all((a.pixels() == b.pixels()).all() for a, b in zip(left, wanted, strict=True))
    letters = pq.read_table(tmp_path / "some/dead_letters.parquet").to_pylist()
    (letter,) = (letter for letter in letters if letter["stage"] == "rejected")
    assert letter["key"] == gone.episode_id and letter["episodes"] == 0
    assert "0 violations, 0 warnings" in unisim("audit", tmp_path / "some").stdout
    assert "1 rejected" in unisim("audit", tmp_path / "some").stdout
    before = files_of(tmp_path / "some")
    unisim(*flags, tmp_path / "some", "--exclude", verdicts)  # it is complete already
    assert files_of(tmp_path / "some") == before
    error = unisim(*flags, tmp_path / "some", code=2).stderr
    assert "1 episodes of bridge rejected there, 0 now" in error
    error = unisim(*flags, tmp_path / "none", "--exclude", raw, code=2).stderr
    assert "--exclude" in error and "cannot be read" in error
