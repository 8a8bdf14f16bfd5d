"""Laws of the control slots."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas import BINS, NUM_SLOTS, SLOTS, discretise, mask_of, undiscretise
from schemas.controls import clip

LOW = np.array([slot.low for slot in SLOTS])
HIGH = np.array([slot.high for slot in SLOTS])
EVERY = np.ones(NUM_SLOTS, bool)

fractions = hnp.arrays(np.float64, (3, NUM_SLOTS), elements=st.floats(0, 1))


@given(fractions)
def test_inverse_is_within_half_a_bin(part):
    values = LOW + part * (HIGH - LOW)
    bins = discretise(values, EVERY)
    assert ((bins >= 0) & (bins < BINS)).all()
    error = np.abs(undiscretise(bins, EVERY) - values)
    assert (error <= (HIGH - LOW) / BINS / 2 + 1e-6).all()


def test_every_bin_is_its_own_middle():
    bins = np.arange(BINS)[:, None].repeat(NUM_SLOTS, 1)
    assert (discretise(undiscretise(bins, EVERY), EVERY) == bins).all()


def test_values_outside_are_clipped_and_counted():
    values = np.zeros((2, NUM_SLOTS))
    values[0, 0] = 22.09
    values[1, 3] = -6.28
    clipped, outside = clip(values)
    assert clipped[0, 0] == 1.0
    assert np.isclose(clipped[1, 3], -np.pi)
    assert outside.sum() == 2 and outside[0, 0] and outside[1, 3]


def test_absent_slots_have_bin_zero():
    mask = mask_of(["gripper"])
    bins = discretise(np.full((1, NUM_SLOTS), 0.5), mask)
    assert bins[0, mask].item() == BINS // 2
    assert (bins[0, ~mask] == 0).all()
