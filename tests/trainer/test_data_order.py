"""Properties of the order of samples: epochs, the mixture, and what it depends on."""

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import UsageError
from trainer.data import Era, Order, OrderSpec, Table, begin, go_on, select
from trainer.data.fake import FakeSpec, write_fake_table
from trainer.data.order import schedule, whole_shares

WEIGHTS = st.floats(1e-3, 1e3)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    spec = FakeSpec(episodes=9, images=7, shards=2)
    return Table(str(write_fake_table(tmp_path_factory.mktemp("table"), 1, spec)))


def _spec(**changes):
    return OrderSpec(**{"weights": {}, "batch_size": 1, "seed": 0, **changes})


def _away(turns: np.ndarray, shares: np.ndarray) -> float:
    """How far the counts of turns are from their shares, at most, after any number of them."""
    had = np.cumsum(turns[:, None] == np.arange(len(shares)), 0)
    return float(np.abs(had - np.arange(1, len(turns) + 1)[:, None] * shares).max())


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_in_a_period_nobody_is_a_whole_turn_from_their_share(counts):
    turns, before = schedule(tuple(counts))
    assert np.bincount(turns, minlength=len(counts)).tolist() == counts
    assert _away(turns, np.array(counts) / sum(counts)) < 1
    for i in range(len(counts)):
        assert before[turns == i].tolist() == list(range(counts[i]))


@given(st.lists(WEIGHTS, min_size=1, max_size=12))
def test_whole_shares_are_the_weights_to_a_ten_thousandth(weights):
    counts = whole_shares(weights)
    assert min(counts) >= 1
    shares = np.array(weights) / sum(weights)
    assert np.abs(np.array(counts) / sum(counts) - shares).max() < 2e-3
    if min(shares) > 1e-3:
        assert np.abs(np.array(counts) / sum(counts) - shares).max() < 1.5e-4 * len(weights)


def test_the_papers_weights_are_exact():
    assert whole_shares([0.1] * 6 + [0.05] * 4) == [2] * 6 + [1] * 4
    assert whole_shares([3.0]) == [1]
    assert whole_shares([1 / 3, 2 / 3]) == [1, 2]


def _rows(samples, eras, count: int, first: int = 0) -> np.ndarray:
    """The rows of so many samples, from that of a step on: a sample a step."""
    order = Order(samples, eras)
    return np.array([order.batch(first + step, [0])[0].row for step in range(count)])


@settings(max_examples=15, deadline=None)
@given(moving=WEIGHTS, still=WEIGHTS, seed=st.integers(0, 2**32 - 1))
def test_every_epoch_of_every_source_visits_each_record_once(table, moving, still, seed):
    samples = select(table, "train")
    era = begin(samples, _spec(weights={"moving": moving, "still": still}, seed=seed))
    drawn = _rows(samples, [era], 600)
    for name in ("moving", "still"):
        _check_epochs(drawn, table.rows("train", name))


def _check_epochs(drawn: np.ndarray, rows: np.ndarray) -> None:
    mine = drawn[np.isin(drawn, rows)]
    for epoch in range(len(mine) // len(rows)):
        part = mine[epoch * len(rows) : (epoch + 1) * len(rows)]
        assert sorted(part) == rows.tolist()
    rest = Counter(mine[len(mine) // len(rows) * len(rows) :].tolist())
    assert not rest or max(rest.values()) == 1


@settings(max_examples=15, deadline=None)
@given(moving=WEIGHTS, still=WEIGHTS, first=st.integers(0, 10**12))
def test_the_mixture_is_within_one_sample_of_its_weights_at_every_step(table, moving, still, first):
    """After any number of samples, a trillion too: counts up to there are those of whole periods
    and of a part of one."""
    samples, still_rows = select(table, "train"), table.rows("train", "still")
    era = begin(samples, _spec(weights={"moving": moving, "still": still}))
    shares = era.shares()
    assert shares.keys() == {"moving", "still"}
    kinds = np.isin(_rows(samples, [era], 800), still_rows)
    assert _away(kinds.astype(int), np.array([shares["moving"], shares["still"]])) < 1
    period = sum(whole_shares([moving, still]))
    later = _rows(samples, [era], 50, first * period)
    assert np.isin(later, still_rows).tolist() == kinds[:50].tolist()


@settings(max_examples=15, deadline=None)
@given(
    weights=st.lists(st.tuples(WEIGHTS, WEIGHTS), min_size=2, max_size=4),
    steps=st.lists(st.integers(1, 60), min_size=4, max_size=4),
    batch_size=st.integers(1, 7),
)
def test_epochs_go_on_through_changes_of_the_weights(table, weights, steps, batch_size):
    samples, first = select(table, "train"), 0
    eras: list[Era] = []
    drawn: list[int] = []
    for (moving, still), count in zip(weights, steps, strict=False):
        spec = _spec(weights={"moving": moving, "still": still}, batch_size=batch_size)
        if eras:
            eras = list(go_on(eras, first, samples, spec, changed=False))
        else:
            eras = [begin(samples, spec)]
        order = Order(samples, eras)
        mine = [s.row for step in range(first, first + count) for s in order.batch(step)]
        kinds = np.isin(mine, table.rows("train", "still")).astype(int)
        shares = eras[-1].shares()
        assert _away(kinds, np.array([shares["moving"], shares["still"]])) < 1
        drawn, first = drawn + mine, first + count
    for name in ("moving", "still"):
        _check_epochs(np.array(drawn), table.rows("train", name))
        given_ = int(np.isin(drawn, table.rows("train", name)).sum())
        assert eras[-1].drawn_at(first)[name] == given_
    again = Order(samples, tuple(Era(**dataclasses.asdict(era)) for era in eras))
    size = len(drawn) // batch_size
    assert [s.row for step in range(size) for s in again.batch(step)] == drawn


def test_an_unchanged_mixture_begins_no_era_and_other_samples_begin_anew(table):
    samples, spec = select(table, "train"), _spec(weights={"moving": 1, "still": 3})
    first = (begin(samples, spec),)
    same = _spec(weights={"moving": 2, "still": 6})
    assert go_on(first, 100, samples, same, changed=False) == first
    few = select(table, "train", where="num_frames = 16")
    [_, second] = go_on(first, 100, few, spec, changed=True)
    assert (second.step, second.shuffle, second.drawn) == (100, 1, {})
    rows = _rows(few, (*first, second), 200, 100)
    assert {table.chunk(row).num_frames for row in rows} == {16}
    # going back to before the change, its era has not been
    third = go_on((*first, second), 50, samples, spec, changed=False)
    assert [era.step for era in third] == [0, 50]


def test_epochs_differ_and_so_do_seeds(table):
    samples, n = select(table, "train"), table.count("train", "moving")
    weights = {"moving": 1, "still": 0}
    drawn = _rows(samples, [begin(samples, _spec(weights=weights))], 3 * n).tolist()
    epochs = [drawn[e * n : (e + 1) * n] for e in range(3)]
    assert all(a != b for a, b in itertools.combinations(epochs, 2))
    assert epochs[0] != table.rows("train", "moving").tolist()
    other = _rows(samples, [begin(samples, _spec(weights=weights, seed=1))], n).tolist()
    assert other != epochs[0]


def test_a_dataset_without_a_weight_gets_the_small_one_and_temperature_evens(table):
    samples = select(table, "train")

    def shares(**changes):
        return begin(samples, _spec(**changes)).shares()

    assert shares(weights={"moving": 0.1, "absent": 0.5}) == pytest.approx(
        {"moving": 2 / 3, "still": 1 / 3}
    )
    assert shares() == {"moving": 0.5, "still": 0.5}
    uneven = {"moving": 9.0, "still": 1.0}
    assert shares(weights=uneven, temperature=2.0) == {"moving": 0.75, "still": 0.25}
    assert shares(weights=uneven, temperature=1e9)["still"] == pytest.approx(0.5)
    with pytest.raises(UsageError, match="--temperature is 0"):
        shares(temperature=0.0)


def test_too_little_data_and_senseless_weights_are_refused(table):
    samples = select(table, "train")
    with pytest.raises(UsageError, match=r"\d+ samples are there.*batch of 1000"):
        begin(samples, _spec(batch_size=1000))
    with pytest.raises(UsageError, match=r"^0 samples are there"):
        begin(select(table, "test"), _spec(batch_size=1))
    with pytest.raises(UsageError, match="weight of moving is -1"):
        begin(samples, _spec(weights={"moving": -1}))
