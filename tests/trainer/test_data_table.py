"""The table is read back as it was written, row by row, or refused with a reason."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from schemas import EncoderInfo, UsageError, text_key
from schemas.table import SPLITS, text_keys
from trainer.data import EMPTY, Embeddings, Table, select
from trainer.data.fake import CHUNK_LENGTHS, FakeSpec, write_fake_table
from trainer.data.keys import Keys


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    spec = FakeSpec(tiers=("24x40:raw", "48x80:jpeg"), episodes=9, images=5, shards=3)
    return write_fake_table(tmp_path_factory.mktemp("table"), 0, spec)


def _copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy")


def test_rows_come_in_one_stable_order_and_every_split_is_a_part_of_them(path):
    table = Table(str(path))
    places = [table.place(row) for row in range(len(table))]
    kinds = [
        (table.chunk(row).dataset, SPLITS.index(table.chunk(row).split))
        for row in range(len(table))
    ]
    keys = list(zip(kinds, places, strict=True))
    assert keys == sorted(keys) and len(set(places)) == len(places)
    splits = [table.rows(split) for split in ("train", "val", "test")]
    assert sorted(np.concatenate(splits)) == list(range(len(table)))
    assert len(table.rows("train", "still")) == 4 and len(table.rows("val", "still")) == 1
    assert len(table) == sum(d.chunks for d in table.manifests[0].datasets)
    assert table.count("train") == len(splits[0]) and table.count("val", "still") == 1


def test_every_row_is_the_record_that_its_key_names(path):
    for tier in ("24x40", "48x80:jpeg"):
        table = Table(str(path), tier)
        rows = list(range(len(table)))
        for row, chunk in zip(rows[::-1], table.chunks(rows[::-1]), strict=True):
            assert chunk.key == table.key(row)
            assert chunk.pixels().shape[1:3] == (table.tier.height, table.tier.width)
            if not chunk.is_first:
                assert table.key(row - 1) == f"moving/{chunk.episode_id}/{chunk.step - 1}"
    assert table.chunk(0).num_frames == CHUNK_LENGTHS[0]


def test_a_table_is_read_by_threads_and_after_pickling(path):
    table = Table(str(path))
    keys = [table.key(row) for row in range(len(table))]
    again = pickle.loads(pickle.dumps(table))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: again.chunk(row).key, [*range(len(table))] * 4))
    assert found == keys * 4


def test_a_folder_without_a_manifest_is_refused(path, tmp_path):
    with pytest.raises(UsageError, match=r"no manifest.json.*unisim prepare"):
        Table(str(tmp_path / "nowhere"))
    copy = _copy(path, tmp_path)
    (copy / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"no manifest.json.*unisim prepare"):
        Table(str(copy))


def test_an_unknown_tier_split_or_dataset_is_answered_with_what_there_is(path):
    with pytest.raises(UsageError, match=r"'24x41', it has 24x40:raw, 48x80:jpeg"):
        Table(str(path), "24x41")
    with pytest.raises(UsageError, match=r"'48x80:raw', it has 24x40:raw, 48x80:jpeg"):
        Table(str(path), "48x80:raw")
    table = Table(str(path))
    with pytest.raises(UsageError, match="did you mean 'train'"):
        table.rows("trian")
    with pytest.raises(UsageError, match="did you mean 'moving'"):
        table.rows("train", "movin")


def test_damage_is_reported_with_the_file_and_the_remedy(path, tmp_path):
    copy = _copy(path, tmp_path)
    for file in (copy / "frames-24x40").rglob("moving-train*"):
        data = bytearray(file.read_bytes())
        data[100:60000] = bytes(len(data[100:60000]))
        file.write_bytes(data)
    with pytest.raises(UsageError, match=r"moving-train.*unisim audit"):
        Table(str(copy)).chunk(0)
    next((copy / "frames-24x40").rglob("moving-train*")).unlink()
    with pytest.raises(UsageError, match=r"moving-train.*unisim audit"):
        Table(str(copy)).chunks(range(9))
    shutil.rmtree(copy / "frames-24x40")
    with pytest.raises(UsageError, match=r"frames-24x40: is not there; .*unisim stage"):
        Table(str(copy))


def test_an_index_that_does_not_fit_the_manifest_is_refused(path, tmp_path):
    copy = _copy(path, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["datasets"][0]["chunks"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"shards of moving have .* rows, the dataset"):
        Table(str(copy))
    next((copy / "index.parquet").glob("still-00001*")).unlink()
    shutil.copy(path / "manifest.json", copy / "manifest.json")
    with pytest.raises(UsageError, match="index of still cannot be read"):
        select(Table(str(copy)), "train", where="num_frames > 0")


def test_every_text_has_its_embedding_and_the_cache_changes_nothing(path):
    table = Table(str(path))
    encoder = table.encoder()
    large, small = Embeddings(str(path), encoder), Embeddings(str(path), encoder, cache_bytes=1)
    texts = {table.chunk(row).text for row in range(len(table))} | {EMPTY}
    assert len(large) == len(texts)
    for text in [*texts, *texts]:
        value = large.lookup(text)
        assert value.shape == (len(text.split()) + 1, large.info.width)
        assert value.tobytes() == small.lookup(text).tobytes()
        norms = np.linalg.norm(value.astype(np.float32), axis=1)
        np.testing.assert_allclose(norms, 1, atol=0.02)
        rng = np.random.default_rng([0, 2, *text_key(text)])  # as the fake made it
        first = rng.standard_normal(value.shape)[0]
        np.testing.assert_allclose(value[0], first / np.linalg.norm(first), atol=0.01)
    asked = [*sorted(texts), EMPTY, EMPTY]
    for text, value in zip(asked, large.lookup_many(asked), strict=True):
        assert value.tobytes() == small.lookup(text).tobytes()
    assert large.lookup_many([]) == []


def test_a_text_without_an_embedding_is_named(path):
    encoder = Table(str(path)).encoder()
    embeddings = Embeddings(str(path), encoder)
    assert "unheard of" not in embeddings and EMPTY in embeddings
    with pytest.raises(UsageError, match="'unheard of'; run `unisim embed --data"):
        embeddings.lookup_many([EMPTY, "unheard of"])
    with pytest.raises(UsageError, match="text/other/keys"):
        Embeddings(str(path), dataclasses.replace(encoder, name="other"))


@pytest.mark.parametrize("kept", [1.0, 0.004], ids=["as digests are", "all in one corner"])
def test_every_key_is_found_however_keys_are_spread(kept, tmp_path):
    texts = [f"text {i}" for i in range(20_000)]
    chosen = [t for t in texts if int.from_bytes(text_key(t)[:8], "big") < kept * 2**64]
    keys = np.array(sorted(np.frombuffer(text_key(t), np.uint8).tolist() for t in chosen), np.uint8)
    info = EncoderInfo(
        name="e", width=4, max_tokens=64, digest="", description="", shard_rows=(len(keys),)
    )
    path = tmp_path / text_keys("e", len(keys))
    path.parent.mkdir(parents=True)
    np.save(path, keys)
    found = Keys(str(tmp_path), info).find([text_key(text) for text in texts])
    assert [text for text, row in zip(texts, found, strict=True) if row >= 0] == chosen
    assert all(
        keys[row].tobytes() == text_key(t) for t, row in zip(texts, found, strict=True) if row >= 0
    )


def test_keys_that_are_a_pickle_are_not_loaded(path, tmp_path):
    copy = _copy(path, tmp_path)
    encoder = Table(str(copy)).encoder()
    objects = np.array([{"a": 1}], object)
    np.save(copy / text_keys(encoder.name, encoder.rows), objects, allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        Embeddings(str(copy), encoder)


def test_the_fake_table_is_a_function_of_its_seed(tmp_path):
    tables = [write_fake_table(tmp_path / f"t{i}", seed) for i, seed in enumerate((3, 3, 4))]
    digests = [Table(str(t)).digest for t in tables]
    assert digests[0] == digests[1] != digests[2]


def test_the_trainer_never_imports_tensorflow_or_beam():
    code = """
import importlib, pkgutil, sys, trainer
for module in pkgutil.walk_packages(trainer.__path__, "trainer."):
    importlib.import_module(module.name)
banned = {"tensorflow", "apache_beam", "pipelines", "infra", "torch"}
print(sorted(banned & {name.partition(".")[0] for name in sys.modules}))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
