"""A few damaged corpora of every source; `make fuzz` runs two thousand."""

import pytest

from tests.fuzz.harness import corpora, work

RUNS = 5


@pytest.mark.parametrize("name", corpora())
def test_damage_costs_no_more_than_what_it_touches(name, tmp_path):
    results = work(name, list(range(RUNS)), 1, str(tmp_path))
    assert [number for number, *_ in results] == list(range(RUNS))
    failed = [text for _, how, text, _ in results if how == "FAILED"]
    assert not failed, failed[0]
