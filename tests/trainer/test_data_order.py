"""Properties of the order of samples: epochs, the mixture, and what it depends on."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import UsageError
from trainer.data import Order, OrderSpec, Table, mixture, rows_at
from trainer.data.fake import FakeSpec, write_fake_table
from trainer.data.order import schedule, whole_shares

WEIGHTS = st.floats(1e-3, 1e3)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    spec = FakeSpec(episodes=9, images=7, shards=2)
    return Table(str(write_fake_table(tmp_path_factory.mktemp("table"), 1, spec)))


def _spec(**changes):
    return OrderSpec(**{"split": "train", "weights": {}, "batch_size": 4, "seed": 0, **changes})


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


@settings(max_examples=15, deadline=None)
@given(moving=WEIGHTS, still=WEIGHTS, seed=st.integers(0, 2**32 - 1))
def test_every_epoch_of_every_source_visits_each_record_once(table, moving, still, seed):
    spec = _spec(weights={"moving": moving, "still": still}, seed=seed)
    drawn = Order(table, spec).rows(range(600))
    for name in ("moving", "still"):
        rows = table.rows("train", name)
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
    spec = _spec(weights={"moving": moving, "still": still})
    shares = mixture(table, spec)
    assert shares.keys() == {"moving", "still"}
    kinds = np.isin(Order(table, spec).rows(range(800)), table.rows("train", "still"))
    assert _away(kinds.astype(int), np.array(list(shares.values()))) < 1
    period = sum(whole_shares([moving, still]))
    later = Order(table, spec).rows(range(first * period, first * period + 50))
    assert np.isin(later, table.rows("train", "still")).tolist() == kinds[:50].tolist()


def test_epochs_differ_and_so_do_seeds(table):
    n = len(table.rows("train", "moving"))
    spec = _spec(weights={"moving": 1, "still": 0})
    drawn = Order(table, spec).rows(range(3 * n)).tolist()
    epochs = [drawn[e * n : (e + 1) * n] for e in range(3)]
    assert all(a != b for a, b in itertools.combinations(epochs, 2))
    assert epochs[0] != table.rows("train", "moving").tolist()
    assert rows_at(table, spec, 0).tolist() != rows_at(table, _spec(seed=1), 0).tolist()


def test_a_dataset_without_a_weight_gets_the_small_one(table):
    shares = mixture(table, _spec(weights={"moving": 0.1, "absent": 0.5}))
    assert shares == pytest.approx({"moving": 2 / 3, "still": 1 / 3})
    assert mixture(table, _spec()) == {"moving": 0.5, "still": 0.5}


def test_too_little_data_and_senseless_weights_are_refused(table):
    with pytest.raises(UsageError, match=r"split train has \d+ samples.*batch of 1000"):
        Order(table, _spec(batch_size=1000))
    with pytest.raises(UsageError, match="split test has 0 samples"):
        Order(table, _spec(split="test", batch_size=1))
    with pytest.raises(UsageError, match="weight of moving is -1"):
        Order(table, _spec(weights={"moving": -1}))
