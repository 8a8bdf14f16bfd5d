"""What a source says of its frames is in the records, and what the index says is in them too."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.episode import Episode, Frame, SourceInfo, Unit
from pipelines.plan import Dataset
from pipelines.rows import rows
from schemas import MAX_FRAMES, Tier, decode
from schemas.columns import INDEX_SCHEMA, index_fields

TIER = Tier(4, 6, "raw")
INFO = SourceInfo(
    name="made_up",
    title="Made up",
    homepage="https://example.org",
    license="CC0-1.0",
    version="1.0.0",
    reads="nothing",
    layout="none",
    obtain="nowhere",
    native_fps=5.0,
    target_fps=None,
)
UNIT = Unit(
    id="one", uri="one.bin", split="train", cost=1, episodes=1, frames=1, version=INFO.version
)
DATASET = Dataset(
    name=INFO.name,
    version=INFO.version,
    root="/nowhere",
    fps=None,
    shard_mb=128.0,
    options={},
    splits=("train",),
    recipe="none",
)


def _image() -> np.ndarray:
    return np.zeros((8, 12, 3), np.uint8)


@given(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=2 * MAX_FRAMES))
def test_overlaps_pass_into_records_and_index(shares):
    frames = [
        Frame(time=i / 5, image=_image, text="look", overlap=share)
        for i, share in enumerate(shares)
    ]
    made = list(rows(Episode(id="a", frames=frames), UNIT, INFO, DATASET, (TIER,), False))
    chunks = [decode(row.wire[TIER], TIER) for row in made]
    overlap = np.concatenate([chunk.overlap for chunk in chunks])
    np.testing.assert_array_equal(overlap, np.array(shares, np.float32))
    written = pa.Table.from_pylist([index_fields(row.chunk) for row in made], INDEX_SCHEMA)
    for row, chunk in zip(written.to_pylist(), chunks, strict=True):
        assert row["overlap"] == index_fields(chunk)["overlap"]  # as the audit compares them
