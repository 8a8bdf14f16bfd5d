"""The embedding table: what the encoder gives, sorted by key, the same bytes every time."""

import dataclasses
import hashlib
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from hypothesis import given
from hypothesis import strategies as st

from pipelines.text import (
    Target,
    TextEncoder,
    bucket_of,
    check_directory,
    embed_shard,
    finish,
    shards_for,
    write_embeddings,
)
from pipelines.text import table as text_table
from schemas import EncoderInfo, UsageError, table, text_key
from schemas.embedding import decode_embedding, encode_embedding
from tests.command import files_of

TEXTS = ["", *(f"push the block {'left ' * (i % 9)}{i}" for i in range(90)), "close " * 200, "닫아"]
KEYS = st.binary(min_size=16, max_size=16)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load(None)


def target_of(out: Path, encoder: TextEncoder, shards: int, before=None, **changes) -> Target:
    info = dataclasses.replace(encoder.info, **changes)
    return Target(out=str(out), encoder=info, num_shards=shards, before=before)


def add(target: Target, encoder: TextEncoder, texts: list[str]) -> EncoderInfo:
    """What one run of `embed` does, without Beam and the manifest."""
    results = []
    for shard in range(target.num_shards):
        mine = [t for t in texts if bucket_of(text_key(t), target.num_shards) == shard]
        results.append(embed_shard(target, shard, mine, lambda: encoder))
    made = finish(target, results)
    names = {Path(name).name for name in table.text_files(made.info)}
    for path in Path(target.out, table.text_dir(target.encoder.name)).iterdir():
        if path.name not in names:
            path.unlink()
    text_table.files.delete_tree(target.work)
    return made.info


def read_back(out: Path, info: EncoderInfo) -> dict[bytes, np.ndarray]:
    """The table by hand, from what schemas/table.py says of the layout alone."""
    folder = out / "text" / info.name
    keys = np.load(folder / f"keys-{sum(info.shard_rows)}.npy", allow_pickle=False)
    assert keys.dtype == np.uint8 and keys.shape == (sum(info.shard_rows), 16)
    records = []
    for shard, rows in enumerate(info.shard_rows):
        count = len(info.shard_rows)
        file = folder / f"embeddings-{rows}.array_record-{shard:05d}-of-{count:05d}"
        assert file.exists() == bool(rows)
        if rows:
            reader = ArrayRecordReader(str(file))
            assert reader.num_records() == rows
            records += reader.read_all()
            reader.close()
    listed = [row.tobytes() for row in keys]
    assert listed == sorted(set(listed))
    return {
        key: decode_embedding(record, info.width, info.dtype)
        for key, record in zip(listed, records, strict=True)
    }


@pytest.mark.parametrize("num_shards", [1, 3])
def test_the_table_read_by_hand_is_what_embed_gives(num_shards, encoder, tmp_path):
    made = write_embeddings(str(tmp_path), encoder, [*TEXTS, *TEXTS[:7]], num_shards)
    found = read_back(tmp_path, made.info)
    assert len(found) == len(TEXTS) == made.info.rows
    for text, row in zip(TEXTS, encoder.embed(TEXTS), strict=True):
        stored = decode_embedding(encode_embedding(row, "bfloat16"), 64, "bfloat16")
        np.testing.assert_array_equal(found[text_key(text)], stored)
    assert found[text_key("")].shape == (1, 64)
    assert made.info.truncated == 1
    assert found[text_key("close " * 200)].shape == (64, 64)


def test_int8_rows_have_nearly_the_direction(encoder, tmp_path):
    info = add(target_of(tmp_path, encoder, 2, dtype="int8", name="tiny-int8"), encoder, TEXTS)
    found = read_back(tmp_path, info)
    for text, row in zip(TEXTS, encoder.embed(TEXTS), strict=True):
        a, b = np.float32(row), np.float32(found[text_key(text)])
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.999


def test_the_files_are_those_of_the_schema(encoder, tmp_path):
    made = write_embeddings(str(tmp_path), encoder, TEXTS, 2)
    written = files_of(tmp_path)
    assert made.files == {
        path: [len(data), hashlib.blake2b(data, digest_size=16).hexdigest()]
        for path, data in written.items()
    }
    assert sorted(written) == sorted(table.text_files(made.info))
    assert dataclasses.replace(made.info, shard_rows=(), truncated=0) == check_directory(None)
    reader = ArrayRecordReader(str(tmp_path / table.text_files(made.info)[1]))
    assert "group_size:1," in reader.writer_options_string()
    assert "uncompressed" in reader.writer_options_string()


def test_order_workers_and_repeats_change_no_byte(encoder, tmp_path):
    """Shards made apart, late, twice, from shuffled texts: the bytes of one straight run."""
    straight = write_embeddings(str(tmp_path / "a"), encoder, TEXTS, 4)
    target = target_of(tmp_path / "b", encoder, 4)
    results = []
    for shard in (2, 0, 3, 1, 2):
        texts = [text for text in TEXTS * 2 if bucket_of(text_key(text), 4) == shard]
        random.Random(shard).shuffle(texts)
        made = embed_shard(target, shard, texts, lambda: encoder)
        assert 2 * made.rows == 2 * made.added == len(texts)
        results.append(pickle.loads(pickle.dumps(made)))
    assert results[0] == results.pop()
    assert finish(target, results) == straight
    assert files_of(tmp_path / "a/text") == files_of(tmp_path / "b/text")


@pytest.mark.parametrize("seed", range(3))
def test_bit_by_bit_gives_the_bytes_of_at_once(seed, encoder, tmp_path):
    texts = TEXTS * 2
    random.Random(seed).shuffle(texts)
    straight = add(target_of(tmp_path / "a", encoder, 3), encoder, TEXTS)
    before = None
    for cut in (slice(0, 1), slice(0, 40), slice(20, 41), slice(30, None), slice(None)):
        before = add(target_of(tmp_path / "b", encoder, 3, before), encoder, texts[cut])
    assert before == straight and straight.truncated == 1
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_what_is_listed_stays_as_it_is_until_it_is_replaced(encoder, tmp_path):
    target = target_of(tmp_path, encoder, 3)
    first = add(target, encoder, TEXTS[:50])
    before = files_of(tmp_path)
    grown = dataclasses.replace(target, before=first)
    same = bucket_of(text_key(TEXTS[60]), 3)
    result = embed_shard(grown, same, [TEXTS[60], *TEXTS[:0]], lambda: encoder)
    assert (result.added, result.rows) == (1, first.shard_rows[same] + 1)
    finish(grown, [result])
    after = files_of(tmp_path)
    assert {name: after[name] for name in before} == before
    new = {name for name in after if name.startswith("text/")} - set(before)
    assert len(new) == 2, "the keys, and the one shard that got a text"


def never() -> TextEncoder:
    raise AssertionError("the encoder was loaded for nothing")


def test_what_is_done_is_not_done_again(encoder, tmp_path):
    target = target_of(tmp_path, encoder, 1)
    done = embed_shard(target, 0, TEXTS, lambda: encoder)
    ticks = []
    assert embed_shard(target, 0, TEXTS[::-1], never, ticks.append) == done
    assert ticks == [len(TEXTS)]
    (file,) = tmp_path.glob("text/*/embeddings-*")
    file.write_bytes(file.read_bytes()[:-1])
    assert embed_shard(target, 0, TEXTS, lambda: encoder) == done, "a file cut short is made again"
    for change in ({"digest": "0" * 32}, {"dtype": "int8"}):
        other = target_of(tmp_path, encoder, 1, **change)
        with pytest.raises(AssertionError):
            embed_shard(other, 0, TEXTS, never)
    info = finish(target, [done]).info
    grown = dataclasses.replace(target, before=info)
    nothing = embed_shard(grown, 0, TEXTS, never)
    assert (nothing.added, nothing.rows) == (0, len(TEXTS))
    assert finish(grown, [nothing]).info == info and not finish(grown, []).files


def test_old_rows_that_are_damaged_are_not_taken_over(encoder, tmp_path):
    target = target_of(tmp_path, encoder, 1)
    grown = dataclasses.replace(target, before=add(target, encoder, TEXTS[:20]))
    (file,) = tmp_path.glob("text/*/embeddings-*")
    good = bytearray(file.read_bytes())
    rows = [encode_embedding(row, "bfloat16") for row in encoder.embed(TEXTS[:20])]
    for place in (good.find(row) + 17 for row in rows[::7]):
        bad = bytearray(good)
        bad[place] ^= 1
        file.write_bytes(bad)
        with pytest.raises(UsageError, match=r"`unisim audit .*` says what is wrong"):
            embed_shard(grown, 0, TEXTS, lambda: encoder)
    file.write_bytes(good)
    (keys,) = tmp_path.glob("text/*/keys-*")
    keys.write_bytes(keys.read_bytes()[:-16])
    with pytest.raises(UsageError, match="cut short"):
        embed_shard(grown, 0, TEXTS, lambda: encoder)


def test_empty_shards_and_an_empty_table(encoder, tmp_path):
    made = write_embeddings(str(tmp_path), encoder, [""], 5)
    assert sorted(made.info.shard_rows) == [0, 0, 0, 0, 1]
    assert list(read_back(tmp_path, made.info)) == [text_key("")]
    none = write_embeddings(str(tmp_path / "none"), encoder, [], 1).info
    assert none.shard_rows == (0,) and read_back(tmp_path / "none", none) == {}


def test_what_belongs_elsewhere_or_is_there_twice_is_a_bug(encoder, tmp_path):
    target = target_of(tmp_path, encoder, 2)
    wrong = 1 - bucket_of(text_key("push"), 2)
    with pytest.raises(ValueError, match=f"'push' is not of shard {wrong} of 2"):
        embed_shard(target, wrong, ["push"], never)
    one = embed_shard(target, 1, [], never)
    for results in ([one, one], [dataclasses.replace(one, shard=2)]):
        with pytest.raises(ValueError, match="embedding shards"):
            finish(target, results)
    assert not list(tmp_path.rglob("keys-*"))


def test_a_shard_holds_about_64_megabytes(encoder):
    info = encoder.info
    assert [shards_for(n, info) for n in (0, 1, 31_250, 31_251)] == [1, 1, 1, 2]
    xxl = dataclasses.replace(info, width=4096)
    half = dataclasses.replace(xxl, dtype="int8")
    assert shards_for(1_000_000, xxl) == 2048 and shards_for(1_000_000, half) == 1025
    assert shards_for(10**12, xxl) == 65_536


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
