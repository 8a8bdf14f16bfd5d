"""Stock tensorflow-datasets reads the table, without our code, and the values agree."""

import numpy as np
import pytest

from schemas import SLOTS, Tier
from tests.table import read_table

JPEG = Tier(48, 80, "jpeg")


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


def test_the_real_bridge_table(tfds, bridge_table):
    tier = Tier(24, 40, "raw")
    builder = tfds.builder_from_directory(bridge_table / "frames-24x40/bridge/1.0.0")
    source = builder.as_data_source(split="train")
    chunks = read_table(bridge_table, tier)
    assert len(source) == len(chunks) == 75
    for row, chunk in zip(source, chunks, strict=True):
        np.testing.assert_array_equal(row["frames"], chunk.frames)
        assert row["frames"].dtype == np.uint8
        for name in ("times", "controls", "control_bins", "control_mask", "overlap"):
            np.testing.assert_array_equal(row[name], getattr(chunk, name), err_msg=name)
        assert row["controls"].shape == (10, len(SLOTS))
        for name in ("dataset", "episode_id", "split", "text", "license", "source_range"):
            assert row[name].decode() == getattr(chunk, name)
        assert row["text_key"] == chunk.text_key
        assert (row["step"], row["fps"]) == (chunk.step, chunk.fps)
        assert (row["is_first"], row["is_last"]) == (chunk.is_first, chunk.is_last)


@pytest.mark.parametrize("dataset", ["bridge/1.0.0", "laion/1.0.0", "something_something_v2/2.0.0"])
def test_every_split_of_several_shards_and_jpeg(tfds, fake_table, dataset):
    chunks = {(c.dataset, c.episode_id, c.step): c for c in read_table(fake_table, JPEG)}
    builder = tfds.builder_from_directory(fake_table / "frames-48x80" / dataset)
    seen = 0
    for split in builder.info.splits:
        if not builder.info.splits[split].num_examples:
            continue
        for row in builder.as_data_source(split=split):
            key = (row["dataset"].decode(), row["episode_id"].decode(), int(row["step"]))
            np.testing.assert_array_equal(np.stack(row["frames"]), chunks[key].pixels())
            seen += 1
    assert seen == sum(key[0] == dataset.split("/")[0] for key in chunks)
