"""The embedding table: what the encoder gives, sorted by key, the same bytes every time."""

import dataclasses
import hashlib
import json
import pickle
import random

import ml_dtypes
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text import (
    TextEncoder,
    bucket_of,
    check_directory,
    embed_shard,
    finish,
    write_embeddings,
)
from schemas import EncoderInfo, table, text_key

TEXTS = ["", *(f"push the block {'left ' * (i % 9)}{i}" for i in range(90)), "close " * 200, "닫아"]
KEYS = st.binary(min_size=16, max_size=16)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load(None)


def read_back(out, name: str = "tiny-random") -> dict[bytes, np.ndarray]:
    """The table by hand, from what schemas/table.py says of the layout alone."""
    folder = out / "text" / name
    info = json.loads((folder / "encoder.json").read_text())
    keys = np.load(folder / "keys.npy", allow_pickle=False)
    assert keys.dtype == np.uint8 and keys.shape == (sum(info["shard_rows"]), 16)
    records = []
    for shard, rows in enumerate(info["shard_rows"]):
        count = len(info["shard_rows"])
        file = folder / f"embeddings.array_record-{shard:05d}-of-{count:05d}"
        reader = ArrayRecordReader(str(file))
        assert reader.num_records() == rows
        records += reader.read_all() if rows else []
        reader.close()
    listed = [row.tobytes() for row in keys]
    assert listed == sorted(set(listed))
    return {
        key: np.frombuffer(record, "<u2").view(ml_dtypes.bfloat16).reshape(-1, info["width"])
        for key, record in zip(listed, records, strict=True)
    }


@pytest.mark.parametrize("num_shards", [1, 3])
def test_the_table_read_by_hand_is_what_embed_gives(num_shards, encoder, tmp_path):
    made = write_embeddings(str(tmp_path), encoder, [*TEXTS, *TEXTS[:7]], num_shards)
    found = read_back(tmp_path)
    assert len(found) == len(TEXTS) == sum(made.info.shard_rows)
    for text, row in zip(TEXTS, encoder.embed(TEXTS), strict=True):
        np.testing.assert_array_equal(found[text_key(text)], row)
    assert found[text_key("")].shape == (1, 64)
    assert made.truncated == 1


def test_the_files_are_those_of_the_schema(encoder, tmp_path):
    made = write_embeddings(str(tmp_path), encoder, TEXTS, 2)
    written = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.*")}
    assert made.files == {
        path: [len(data), hashlib.blake2b(data, digest_size=16).hexdigest()]
        for path, data in written.items()
    }
    folder = table.text_dir("tiny-random")
    assert set(written) == {
        f"{folder}/encoder.json",
        f"{folder}/keys.npy",
        table.text_file("tiny-random", 0, 2),
        table.text_file("tiny-random", 1, 2),
    }
    stored = json.loads(written[f"{folder}/encoder.json"])
    assert EncoderInfo(**stored | {"shard_rows": tuple(stored["shard_rows"])}) == made.info
    assert dataclasses.replace(made.info, shard_rows=()) == check_directory(None)
    reader = ArrayRecordReader(str(tmp_path / table.text_file("tiny-random", 0, 2)))
    assert "group_size:1," in reader.writer_options_string()
    assert "uncompressed" in reader.writer_options_string()


def test_order_workers_and_repeats_change_no_byte(encoder, tmp_path):
    """Shards made apart, late, twice, from shuffled texts: the bytes of one straight run."""
    straight = write_embeddings(str(tmp_path / "a"), encoder, TEXTS, 4)
    results = []
    for shard in (2, 0, 3, 1, 2):
        texts = [text for text in TEXTS * 2 if bucket_of(text_key(text), 4) == shard]
        random.Random(shard).shuffle(texts)
        made = embed_shard(str(tmp_path / "b"), encoder, texts, shard, 4)
        assert made.num_texts == len(texts) == 2 * made.rows
        results.append(pickle.loads(pickle.dumps(made)))
    assert results[0] == dataclasses.replace(results.pop(), num_texts=results[0].num_texts)
    apart = finish(str(tmp_path / "b"), encoder.info, results)
    assert apart == straight
    for path in straight.files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    left = [p for p in (tmp_path / "b").rglob("*") if p.is_file()]
    assert len(left) == len(straight.files), "no temporary file stays"


def test_empty_shards_and_an_empty_table(encoder, tmp_path):
    made = write_embeddings(str(tmp_path), encoder, [""], 5)
    assert sorted(made.info.shard_rows) == [0, 0, 0, 0, 1]
    assert list(read_back(tmp_path)) == [text_key("")]
    assert write_embeddings(str(tmp_path / "none"), encoder, [], 1).info.shard_rows == (0,)
    assert read_back(tmp_path / "none") == {}


def test_what_belongs_elsewhere_or_is_missing_is_a_bug(encoder, tmp_path):
    wrong = 1 - bucket_of(text_key("push"), 2)
    with pytest.raises(ValueError, match=f"'push' is not of shard {wrong} of 2"):
        embed_shard(str(tmp_path), encoder, ["push"], wrong, 2)
    one = embed_shard(str(tmp_path), encoder, [], 1, 2)
    for results in ([], [one], [one, one]):
        with pytest.raises(ValueError, match="embedding shards"):
            finish(str(tmp_path), encoder.info, results)
    assert not (tmp_path / "text/tiny-random/keys.npy").exists()


@given(st.lists(KEYS, min_size=2), st.integers(1, 1000))
def test_larger_keys_never_have_smaller_buckets(keys, num_shards):
    buckets = [bucket_of(key, num_shards) for key in sorted(keys)]
    assert buckets == sorted(buckets)
    assert all(bucket in range(num_shards) for bucket in buckets)


@given(st.integers(1, 1000))
def test_the_first_and_last_keys_have_the_first_and_last_buckets(num_shards):
    assert bucket_of(bytes(16), num_shards) == 0
    assert bucket_of(b"\xff" * 16, num_shards) == num_shards - 1


def test_buckets_are_of_near_equal_size():
    counts = np.bincount([bucket_of(text_key(str(i)), 8) for i in range(8000)], minlength=8)
    assert counts.min() > 850 and counts.max() < 1150
