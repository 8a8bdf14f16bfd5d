"""Laws of controls: composed over any frames that are dropped they are the same motion, and their
bins lose no more than half a bin. Motions are compared as matrices, made by SciPy's rotations."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from pipelines.episode import Control, Frame
from pipelines.ops.controls import compose, euler, rotation, wrap
from pipelines.ops.resample import resample
from pipelines.ops.unify import Step, unify
from schemas import BINS, NUM_SLOTS, SLOTS, discretise, mask_of, undiscretise
from schemas.controls import INDEX, clip

LOW = np.array([slot.low for slot in SLOTS])
HIGH = np.array([slot.high for slot in SLOTS])
EVERY = np.ones(NUM_SLOTS, bool)
ALL_SLOTS = tuple(Control(name=slot.name, slot=slot.name, unit=slot.unit) for slot in SLOTS)
KINDS = ("sum", "last", "rotation", "planar", "pose")

# at quarters of an angle's range, and next to them, lie the poles of roll, pitch and yaw
_QUARTERS = [0.0, 0.25, 0.5, 0.75, 1.0]
_NEAR = [
    part + sign * 10.0**-e for part in _QUARTERS[1:4] for sign in (-1, 1) for e in range(6, 13)
]
parts = st.sampled_from(_QUARTERS) | st.sampled_from(_NEAR) | st.floats(0, 1)


def controls_of(n: int) -> st.SearchStrategy[np.ndarray]:
    """Any controls `[n, S]` within the slots' ranges."""
    part = hnp.arrays(np.float64, (n, NUM_SLOTS), elements=parts, fill=st.just(0.5))
    return part.map(lambda part: LOW + part * (HIGH - LOW))


episodes = st.integers(1, 12).flatmap(controls_of)


def names(kind: str) -> list[str]:
    return [slot.name for slot in SLOTS if slot.compose == kind]


def columns(controls: np.ndarray, *slots: str) -> np.ndarray:
    return controls[:, [INDEX[slot] for slot in slots]]


def motion(kind: str, controls: np.ndarray) -> np.ndarray:
    """The motion of the rows `[n, S]` in the slots of a kind: sums, newest values or a matrix."""
    if kind == "sum":
        return np.array([math.fsum(column) for column in columns(controls, *names(kind)).T])
    if kind == "last":
        return columns(controls, *names(kind))[-1]
    if kind == "planar":
        total = np.eye(3)
        for x, y, yaw in columns(controls, "base_dx", "base_dy", "base_dyaw"):
            step = np.eye(3)
            step[:2, :2] = Rotation.from_euler("z", yaw).as_matrix()[:2, :2]
            step[:2, 2] = x, y
            total = total @ step
        return total
    body = "ee" if kind == "rotation" else "camera"
    # lower-case letters: about fixed axes, roll first
    turns = columns(controls, f"{body}_droll", f"{body}_dpitch", f"{body}_dyaw")
    steps = np.tile(np.eye(4), (len(controls), 1, 1))
    steps[:, :3, :3] = Rotation.from_euler("xyz", turns).as_matrix()
    if kind == "pose":
        steps[:, :3, 3] = columns(controls, "camera_dx", "camera_dy", "camera_dz")
    total = np.eye(4)
    for step in steps:
        # the base's axes are fixed, so later turns come from the left; the camera's move with it
        total = step @ total if kind == "rotation" else total @ step
    return total


def test_every_slot_is_of_one_of_these_kinds():
    assert sorted(name for kind in KINDS for name in names(kind)) == sorted(INDEX)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_any_frames_may_be_dropped(kind, data):
    controls = data.draw(episodes)
    kept = data.draw(st.sets(st.integers(0, len(controls) - 1)))
    ends = sorted({*kept, len(controls) - 1})  # what comes after the last kept frame is not there
    starts = [0, *(end + 1 for end in ends[:-1])]
    composed = np.stack([compose(controls[a : b + 1]) for a, b in zip(starts, ends, strict=True)])
    np.testing.assert_allclose(motion(kind, composed), motion(kind, controls), atol=1e-6)
    # each kept frame alone, too
    for row, a, b in zip(composed, starts, ends, strict=True):
        np.testing.assert_allclose(
            motion(kind, row[None]), motion(kind, controls[a : b + 1]), atol=1e-6
        )


def steps_of(times: np.ndarray, controls: np.ndarray) -> list[Step]:
    def image() -> np.ndarray:
        raise AssertionError("resampling decodes nothing")

    rows = zip(times, controls, strict=True)
    frames = [Frame(time=float(time), image=image, control=control) for time, control in rows]
    return list(unify(frames, ALL_SLOTS))


@settings(deadline=None)
@given(st.data())
def test_any_rate_keeps_the_motion(data):
    controls = data.draw(episodes)
    gaps = data.draw(hnp.arrays(np.float64, len(controls), elements=st.floats(1e-3, 5)))
    fps = data.draw(st.none() | st.floats(0.05, 1000))
    times = np.cumsum(gaps)
    kept = list(resample(steps_of(times, controls), fps))
    at = [int(np.argmin(np.abs(times - times[0] - step.time))) for step in kept]
    assert at[0] == 0 and sorted(set(at)) == at
    if fps is None:
        assert len(kept) == len(controls)
    composed = np.stack([step.control for step in kept])
    for kind in KINDS:
        want = motion(kind, controls[: at[-1] + 1])
        np.testing.assert_allclose(motion(kind, composed), want, atol=1e-6, err_msg=kind)


@settings(deadline=None)
@given(episodes)
def test_composed_motions_stay_in_their_form(controls):
    total = compose(controls)
    assert total.shape == (NUM_SLOTS,) and np.isfinite(total).all()
    for slot, value in zip(SLOTS, total, strict=True):
        if slot.unit == "rad" and slot.compose != "sum":
            assert slot.low - 1e-12 <= value <= slot.high + 1e-12  # no angle leaves its bins


@given(controls_of(1))
def test_one_row_composes_to_itself(row):
    assert (compose(row) == row[0]).all()


@given(st.floats(-1e3, 1e3))
def test_wrap_is_the_same_angle_within_half_a_turn(angle):
    wrapped = wrap(angle)
    assert -np.pi <= wrapped < np.pi
    np.testing.assert_allclose(
        [np.cos(wrapped), np.sin(wrapped)], [np.cos(angle), np.sin(angle)], atol=1e-9
    )


angles = hnp.arrays(np.float64, 3, elements=st.floats(-10, 10))


@given(angles)
def test_rotation_is_roll_pitch_yaw_about_fixed_axes(turn):
    np.testing.assert_allclose(
        rotation(turn), Rotation.from_euler("xyz", turn).as_matrix(), atol=1e-12
    )
    np.testing.assert_allclose(rotation(euler(rotation(turn))), rotation(turn), atol=1e-6)


@given(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
def test_euler_inverts_rotation(roll, pitch, yaw):
    turn = np.array([roll, pitch, yaw])
    np.testing.assert_allclose(euler(rotation(turn)), turn, atol=1e-6)


@given(episodes)
def test_a_value_is_within_half_a_bin_of_its_bin(controls):
    bins = discretise(controls, EVERY)
    assert bins.dtype == np.int32 and ((bins >= 0) & (bins < BINS)).all()
    error = np.abs(undiscretise(bins, EVERY) - controls)
    rounding = np.spacing(np.maximum(np.abs(LOW), HIGH).astype(np.float32))  # of the float32 value
    assert (error <= (HIGH - LOW) / BINS / 2 + rounding).all()


def test_every_bin_is_its_own_middle():
    bins = np.arange(BINS)[:, None].repeat(NUM_SLOTS, 1)
    assert (discretise(undiscretise(bins, EVERY), EVERY) == bins).all()


@given(episodes, hnp.arrays(bool, NUM_SLOTS))
def test_bins_of_values_of_bins_are_the_bins(controls, mask):
    bins = discretise(controls, mask)
    values = undiscretise(bins, mask)
    assert (discretise(values, mask) == bins).all()
    assert (undiscretise(discretise(values, mask), mask) == values).all()
    assert (bins[:, ~mask] == 0).all() and (values[:, ~mask] == 0).all()


@given(hnp.arrays(np.float64, (3, NUM_SLOTS), elements=st.floats(-1e6, 1e6)))
def test_values_outside_fall_into_the_outermost_bins_and_are_counted(controls):
    limited, outside = clip(controls)
    assert limited.dtype == np.float32
    far = (controls < LOW - 1e-5) | (controls > HIGH + 1e-5)
    near = (controls >= LOW) & (controls <= HIGH)
    assert outside[far].all() and not outside[near].any()
    assert (np.abs(limited - np.clip(controls, LOW, HIGH)) <= 1e-6).all()
    bins = discretise(controls, EVERY)
    assert (bins[controls < LOW] == 0).all() and (bins[controls > HIGH] == BINS - 1).all()


def test_bins_by_example():
    values, mask = np.zeros((1, NUM_SLOTS)), mask_of(["gripper", "ee_dx"])
    values[0, INDEX["gripper"]], values[0, INDEX["ee_dx"]] = 0.5, -1.0
    bins = discretise(values, mask)[0]
    assert bins[INDEX["gripper"]] == BINS // 2 and bins[INDEX["ee_dx"]] == 0
    assert bins[~mask].tolist() == [0] * (NUM_SLOTS - 2)
    values[0, 0], values[0, 3] = 22.09, -6.28
    clipped, outside = clip(values)
    assert clipped[0, 0] == 1.0 and np.isclose(clipped[0, 3], -np.pi)
    assert outside.sum() == 2 and outside[0, 0] and outside[0, 3]
