"""Examples are slices of episodes; batches are the order's, whatever the threads and processes."""

import collections
import itertools

import numpy as np
import pytest

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
def table(tmp_path_factory):
    spec = FakeSpec(episodes=9, images=7, shards=2)
    return Table(str(write_fake_table(tmp_path_factory.mktemp("table"), 1, spec)))


def _maker(table, frames=16, kind: HistoryKind = "recent", k=4, tokens=16):
    spec = ExampleSpec(frames=frames, history=history_offsets(kind, k), tokens=tokens)
    return ExampleMaker(table, Embeddings.of(table), spec)


def _order(table, batch_size=4, seed=0):
    samples = select(table, "train")
    return Order(samples, [begin(samples, OrderSpec(weights={}, batch_size=batch_size, seed=seed))])


def _episodes(table):
    """The row numbers of each episode, put together from the records' own keys."""
    found = collections.defaultdict(list)
    for row in range(len(table)):
        chunk = table.chunk(row)
        found[chunk.dataset, chunk.episode_id].append((chunk.step, row))
    return [[row for _, row in sorted(rows)] for rows in found.values()]


@pytest.mark.parametrize(("kind", "k"), [("recent", 4), ("distant", 4), ("single", 1)])
@pytest.mark.parametrize("frames", [16, 5])
def test_history_and_target_are_slices_of_the_episode(table, kind, k, frames):
    maker = _maker(table, frames, kind, k)
    for rows in _episodes(table):
        chunks = table.chunks(rows)
        episode = np.concatenate([c.pixels() for c in chunks])
        bins = np.concatenate([c.control_bins for c in chunks])
        begin = 0
        for row, chunk in zip(rows, chunks, strict=True):
            end = begin + chunk.num_frames
            at = 1 if begin == 0 and chunk.num_frames > 1 else begin  # an episode's first frame
            example = maker.example(row)
            n = min(end - at, frames)
            assert example["row"] == row
            np.testing.assert_array_equal(example["frames"][:n], episode[at : at + n])
            np.testing.assert_array_equal(example["controls"][:n], bins[at : at + n])
            assert not example["frames"][n:].any() and not example["controls"][n:].any()
            np.testing.assert_array_equal(example["frame_mask"], np.arange(frames) < n)
            for i, offset in enumerate(history_offsets(kind, k)):
                assert example["history_mask"][i] == (at >= offset)
                wanted = episode[at - offset] if at >= offset else np.zeros_like(episode[0])
                np.testing.assert_array_equal(example["history"][i], wanted)
            begin = end


def test_an_image_has_no_history_and_all_else_has(table):
    maker = _maker(table)
    for row in range(len(table)):
        example = maker.example(row)
        image = table.key(row).startswith("still/")
        assert example["history_mask"].any() == (not image)
        assert example["frame_mask"].sum() == 1 or not image
        assert example["control_mask"].any() == (not image)


def test_tokens_are_the_texts_embedding_padded(table):
    maker = _maker(table, tokens=4)
    for row in range(len(table)):
        example, wanted = maker.example(row), maker.embeddings.lookup(table.chunk(row).text)
        n = min(4, len(wanted))
        assert example["token_mask"].sum() == n
        assert example["tokens"][:n].tobytes() == wanted[:n].tobytes()
        assert not example["tokens"][n:].any()


def test_reading_together_or_alone_is_the_same(table):
    maker = _maker(table)
    together = maker.batch([Sample(row, 0) for row in range(len(table))])
    for i in range(len(table)):
        alone = maker.example(i)
        for name, value in together.items():
            assert value[i].tobytes() == alone[name].tobytes(), name


def test_the_order_is_a_function_of_seed_and_step_whatever_the_threads(table):
    maker, order = _maker(table), _order(table, batch_size=6)
    runs = [
        [b["row"].tolist() for b in itertools.islice(batches(maker, order, threads=t), 9)]
        for t in (0, 1, 3)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0] == [[s.row for s in order.batch(step)] for step in range(9)]
    other = [s.row for s in _order(table, batch_size=6, seed=1).batch(0)]
    assert other != runs[0][0]


def test_processes_divide_every_batch_among_them(table):
    maker, order = _maker(table), _order(table, batch_size=6)
    whole = list(itertools.islice(batches(maker, order), 4))
    parts = [
        list(itertools.islice(batches(maker, order, places=range(6)[p::3]), 4)) for p in range(3)
    ]
    for step, batch in enumerate(whole):
        for p in range(3):
            for name, value in parts[p][step].items():
                assert value.tobytes() == np.ascontiguousarray(batch[name][p::3]).tobytes()


def test_an_iterator_goes_on_where_its_state_was_taken(table):
    maker, order = _maker(table), _order(table)
    straight = batches(maker, order)
    rows = [next(straight)["row"].tolist() for _ in range(8)]
    first = batches(maker, order)
    assert [next(first)["row"].tolist() for _ in range(3)] == rows[:3]
    again = batches(maker, order, threads=0)
    again.set_state(first.get_state())
    assert [next(again)["row"].tolist() for _ in range(5)] == rows[3:]
