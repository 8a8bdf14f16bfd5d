"""Samples at any frame, under a condition, without what auditors rejected, of several tables."""

import collections

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import UsageError
from schemas.verdicts import VERDICT_SCHEMA
from trainer.data import (
    Embeddings,
    ExampleMaker,
    ExampleSpec,
    Order,
    OrderSpec,
    Sample,
    Table,
    batches,
    begin,
    history_offsets,
    select,
)
from trainer.data.example import HistoryKind
from trainer.data.fake import FakeSpec, write_fake_table


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    spec = FakeSpec(episodes=9, images=7, shards=2, tiers=("24x40:raw", "48x80:jpeg"))
    return str(write_fake_table(tmp_path_factory.mktemp("table"), 1, spec))


def _maker(table, frames=16, kind: HistoryKind = "recent", k=4, rejected=frozenset()):
    offsets = history_offsets(kind, k)
    spec = ExampleSpec(frames=frames, history=offsets, tokens=16, windows="any")
    return ExampleMaker(table, Embeddings.of(table), spec, rejected)


def _episodes(table):
    """The row numbers of each episode in train, put together from the records' own keys."""
    found = collections.defaultdict(list)
    for row in table.rows("train").tolist():
        chunk = table.chunk(row)
        found[chunk.dataset, chunk.episode_id].append((chunk.step, row))
    return [[row for _, row in sorted(rows)] for rows in found.values()]


def _all(samples):
    return [numbered[i] for numbered in samples.by_dataset.values() for i in range(len(numbered))]


@pytest.mark.parametrize("tier", ["24x40", "48x80"])
@pytest.mark.parametrize(("kind", "k", "frames"), [("recent", 4, 16), ("distant", 4, 5)])
def test_a_window_at_any_frame_is_a_slice_of_the_episode(path, tier, kind, k, frames):
    """It has every frame of its text that follows, with that frame's own controls."""
    table = Table(path, tier)
    maker, offsets = _maker(table, frames, kind, k), history_offsets(kind, k)
    wanted = set()
    for rows in _episodes(table):
        chunks = table.chunks(rows)
        episode = np.concatenate([c.pixels() for c in chunks])
        bins = np.concatenate([c.control_bins for c in chunks])
        texts = [c.text for c in chunks for _ in range(c.num_frames)]
        of_frame = [row for row, c in zip(rows, chunks, strict=True) for _ in range(c.num_frames)]
        for at in range(min(1, len(episode) - 1), len(episode)):
            start = max(of_frame.index(of_frame[at]), min(1, len(episode) - 1))
            sample = Sample(of_frame[at], at - start)
            wanted.add(sample)
            n = next((i for i, t in enumerate(texts[at:]) if t != texts[at]), len(texts) - at)
            n = min(n, frames)
            example = maker.example(*sample)
            assert example["begin"] == sample.begin and example["frame_mask"].sum() == n
            np.testing.assert_array_equal(example["frames"][:n], episode[at : at + n])
            np.testing.assert_array_equal(example["controls"][:n], bins[at : at + n])
            assert not example["frames"][n:].any() and not example["controls"][n:].any()
            for i, offset in enumerate(offsets):
                assert example["history_mask"][i] == (at >= offset)
                before = episode[at - offset] if at >= offset else np.zeros_like(episode[0])
                np.testing.assert_array_equal(example["history"][i], before)
    found = _all(select(table, "train", windows="any"))
    assert len(found) == len(wanted) and set(found) == wanted


def test_rejected_records_are_neither_shown_nor_remembered(path, tmp_path):
    table = Table(path)
    rows = next(rows for rows in _episodes(table) if len(rows) == 4)
    chunks = table.chunks(rows)
    bad = chunks[1]
    verdicts = [
        {"dataset": bad.dataset, "episode_id": bad.episode_id, "step": 1, "verdict": "reject"},
        {"dataset": bad.dataset, "episode_id": bad.episode_id, "step": 3, "verdict": "accept"},
        {"dataset": "gone", "episode_id": "x", "step": 0, "verdict": "reject"},
    ]
    file = tmp_path / "verdicts.parquet"
    pq.write_table(pa.Table.from_pylist(verdicts, VERDICT_SCHEMA), file)
    for windows in ("actions", "any"):
        everything = select(table, "train", windows=windows)
        samples = select(table, "train", windows=windows, exclude=str(file))
        assert samples.rejected == {rows[1]} and samples.digest != everything.digest
        left = [s for s in _all(everything) if s.row not in (rows[1], rows[2])]
        assert [s for s in _all(samples) if s.row != rows[2]] == left
        # the row after it lost its history: its first frame is that now
        count = chunks[2].num_frames - 1 if windows == "any" else 1
        assert sum(s.row == rows[2] for s in _all(samples)) == count
    maker = _maker(table, rejected=samples.rejected)
    before, after = maker.example(rows[0], 3), maker.example(rows[2])
    assert before["frame_mask"].sum() == chunks[0].num_frames - 4  # it ends with its row
    assert after["history_mask"].tolist() == [False, False, False, True]
    np.testing.assert_array_equal(after["history"][-1], chunks[2].pixels()[0])
    np.testing.assert_array_equal(after["frames"][0], chunks[2].pixels()[1])
    with pytest.raises(UsageError, match=r"--exclude .*manifest.json: cannot be read.*verdicts"):
        select(table, "train", exclude=f"{path}/manifest.json")


def test_a_condition_chooses_rows_by_any_column_of_the_index(path):
    table = Table(path)
    chosen = select(table, "train", where="source = 'moving' and num_frames >= 8 and step > 0")
    rows = [s.row for s in _all(chosen)]
    assert rows == [
        row
        for row in table.rows("train").tolist()
        if (c := table.chunk(row)).dataset == "moving" and c.num_frames >= 8 and c.step > 0
    ]
    assert 0 < len(rows) < table.count("train")
    only = select(table, "train", where="text like '%left' and licence = 'CC0-1.0'")
    assert {table.chunk(s.row).text for s in _all(only)} == {"push the red block left"}
    assert select(table, "train", where="false").by_dataset == {}
    assert _all(select(table, "train", where=" ")) == _all(select(table, "train"))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("sorce = 'bridge'", 'Referenced column "sorce" not found.*"source"'),
        ("num_frames >", "syntax error at or near"),
        ("dataset = 3", "Could not convert string"),
        ("1=1; drop table x", "Parser Error"),
        ("(select count(*) from read_csv('/etc/passwd')) > 0", "file system operations"),
        ("exists(select 1 from glob('*'))", "file system operations"),
        ("(select 1 from read_parquet('*.parquet')) > 0", "file system operations"),
    ],
)
def test_what_is_no_condition_is_refused_and_opens_no_file(path, where, said):
    with pytest.raises(UsageError, match=rf"--where .*{said}.*wanted a condition such as") as e:
        select(Table(path), "train", where=where)
    assert "\n" not in str(e.value)


def test_several_tables_are_one(path, tmp_path):
    other = str(write_fake_table(tmp_path / "other", 1, FakeSpec(episodes=3, images=2)))
    one, two, both = Table(path, "24x40"), Table(other), Table([path, other], "24x40")
    assert len(both) == len(one) + len(two) and both.datasets == ["moving", "still"]
    keys = [one.key(row) for row in range(len(one))] + [two.key(row) for row in range(len(two))]
    assert [both.key(row) for row in range(len(both))] == keys
    assert both.digest not in (one.digest, two.digest)
    samples = select(both, "train")
    for name in ("moving", "still"):
        rows = [
            s.row
            for s in (samples.by_dataset[name][i] for i in range(len(samples.by_dataset[name])))
        ]
        assert rows == both.rows("train", name).tolist()
        assert len(rows) == one.count("train", name) + two.count("train", name)
    few = select(both, "train", where="step = 1")
    assert [s.row for s in _all(few)] == [
        row for row in both.rows("train").tolist() if both.chunk(row).step == 1
    ]
    embeddings = Embeddings.of(both)
    for row in range(len(both)):
        assert both.chunk(row).text in embeddings
    spec = ExampleSpec(frames=16, history=(1,), tokens=8)
    order = Order(samples, [begin(samples, OrderSpec(weights={}, batch_size=8, seed=0))])
    batch = next(batches(ExampleMaker(both, embeddings, spec), order))
    for i, row in enumerate(batch["row"].tolist()):
        alone = (one, row) if row < len(one) else (two, row - len(one))
        example = ExampleMaker(alone[0], Embeddings.of(alone[0]), spec).example(alone[1])
        assert batch["frames"][i].tobytes() == example["frames"].tobytes()
        assert batch["tokens"][i].tobytes() == example["tokens"].tobytes()
    third = str(write_fake_table(tmp_path / "third", 2))
    with pytest.raises(UsageError, match=r"third: has no embeddings by fake of"):
        Embeddings.of(Table([path, third], "24x40"))
    with pytest.raises(UsageError, match="has no tier '48x80'"):
        Table([path, other], "48x80")


def test_damage_in_a_record_names_its_file_and_place(path, tmp_path):
    import shutil

    copy = shutil.copytree(path, tmp_path / "copy")
    for file in (copy / "frames-24x40").rglob("moving-train*"):
        data = bytearray(file.read_bytes())
        data[65536 * 2 : 65536 * 4] = bytes(65536 * 2)
        file.write_bytes(data)
    table = Table(str(copy))
    maker = _maker(table)
    with pytest.raises(
        UsageError, match=r"moving-train\S+: record \d+ cannot be read.*unisim audit"
    ):
        maker.batch([Sample(row, 0) for row in table.rows("train", "moving").tolist()])
    with pytest.raises(UsageError, match=r"record 0 cannot be read \(it has 16 frames"):
        maker.example(table.rows("train", "moving")[0], 15)
