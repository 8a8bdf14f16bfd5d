"""The world in which obedience is measured, and the measure itself."""

import cv2
import numpy as np
import pytest

from infra.demo.one_block import (
    COMMANDS,
    FRAMES,
    block_at,
    colour_of,
    counterfactuals,
    episode,
    obeys,
)
from infra.demo.tabletop import COLOURS, TABLE


def _small(frame: np.ndarray) -> np.ndarray:
    return cv2.resize(frame, (20, 12), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def starts():
    return [counterfactuals(np.random.default_rng((1, i)), 96, 160) for i in range(32)]


def test_all_commands_are_carried_out_from_one_start(starts):
    for found in starts:
        assert [pushed.text for pushed in found] == list(COMMANDS)
        for pushed in found:
            assert pushed.frames.shape == (FRAMES + 1, 96, 160, 3)
            assert len(pushed.moves) == len(pushed.tips) == FRAMES + 1
            np.testing.assert_array_equal(pushed.frames[0], found[0].frames[0])


def test_the_measure_tells_the_commands_apart(starts):
    """What really follows a command obeys it, and obeys no other; so few pixels cost one push."""
    found = np.array(
        [
            [[obeys(c, _small(p.frames[0]), _small(p.frames[-1])) for p in all_] for c in COMMANDS]
            for all_ in starts
        ]
    ).mean(0)
    assert (np.diag(found) > 0.95).all()
    np.testing.assert_array_equal(found[~np.eye(len(COMMANDS), dtype=bool)], 0)


def test_a_start_that_nothing_follows_obeys_only_stay(starts):
    start = _small(starts[0][0].frames[0])
    assert [text for text in COMMANDS if obeys(text, start, start)] == ["stay"]


@pytest.mark.parametrize("after", [np.full((12, 20, 3), TABLE, np.uint8), None])
def test_a_block_that_is_gone_or_everywhere_obeys_nothing(starts, after):
    start = _small(starts[0][0].frames[0])
    colour = COLOURS[colour_of(start)]
    after = np.full((12, 20, 3), colour, np.uint8) if after is None else after
    assert not any(obeys(text, start, after) for text in COMMANDS)


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_block_is_where_it_was_drawn(colour):
    frame = np.full((12, 20, 3), TABLE, np.uint8)
    frame[3:5, 7:10] = COLOURS[colour]
    place, seen = block_at(frame, colour)
    assert colour_of(frame) == colour
    np.testing.assert_allclose(place, [8, -3.5], atol=1e-6)
    assert seen == pytest.approx(6)


def test_commands_are_equally_frequent_and_only_stay_leaves_the_block():
    made = [episode(np.random.default_rng(i), 24, 40) for i in range(100)]
    texts = [pushed.text for pushed in made]
    assert all(8 <= texts.count(text) <= 36 for text in COMMANDS)
