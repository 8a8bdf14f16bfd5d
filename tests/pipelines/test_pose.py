"""Poses: conversions and their inverses, deltas that compose, words that say what was done."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipelines.ops import pose
from pipelines.ops.controls import compose
from pipelines.ops.unify import mask_of_controls
from pipelines.sources._tour import CONTROLS
from schemas import DataError
from schemas.controls import INDEX, NUM_SLOTS

angles = st.floats(-math.pi, math.pi)
metres = st.floats(-7, 7)
motions = st.tuples(metres, metres, metres, angles, st.floats(-1.5, 1.5), angles).map(np.array)
CAMERA = [INDEX[f"camera_d{axis}"] for axis in ("x", "y", "z", "roll", "pitch", "yaw")]


@given(motions, motions)
def test_relative_and_inverse(a, b):
    start, end = pose.matrix(a), pose.matrix(b)
    np.testing.assert_allclose(start @ pose.relative(start, end), end, atol=1e-12)
    np.testing.assert_allclose(pose.inverse(start) @ start, np.eye(4), atol=1e-12)


@given(motions)
def test_a_delta_and_its_matrix(slots):
    again = pose.delta(pose.matrix(slots))
    np.testing.assert_allclose(pose.matrix(again), pose.matrix(slots), atol=1e-9)
    wanted = Rotation.from_euler("xyz", slots[3:]).as_matrix()  # another's reading of the same
    np.testing.assert_allclose(pose.matrix(slots)[:3, :3], wanted, atol=1e-12)


@given(st.lists(motions, min_size=1, max_size=40))
def test_the_deltas_of_a_path_compose_to_its_end(steps):
    """Also through float32, as records keep them, and through the resampler's composition."""
    end = np.eye(4)
    rows = np.zeros((len(steps), NUM_SLOTS), np.float32)
    for row, step in zip(rows, steps, strict=True):
        after = end @ pose.matrix(step)
        row[CAMERA] = pose.delta(pose.relative(end, after))
        end = after
    composed = pose.matrix(compose(rows)[CAMERA])
    np.testing.assert_allclose(composed, end, atol=1e-4)
    assert (np.flatnonzero(mask_of_controls(CONTROLS)) == CAMERA).all()


@given(motions, st.sampled_from(["body", "opencv", "opengl"]), st.sampled_from(["body", "opengl"]))
def test_changing_a_cameras_axes_and_back(slots, old, new):
    at = pose.matrix(slots)
    changed = pose.change_camera(at, old, new)
    np.testing.assert_allclose(pose.change_camera(changed, new, old), at, atol=1e-12)
    np.testing.assert_array_equal(changed[:3, 3], at[:3, 3])
    assert np.linalg.det(changed[:3, :3]) == pytest.approx(1)


def test_what_the_named_axes_are():
    """A camera that faces the world's x axis: where each of its own axes points."""
    at = pose.facing(np.zeros(3), 0.0)
    forward, left, up = np.eye(3)
    np.testing.assert_allclose(at[:3, :3], np.stack([forward, left, up], 1), atol=1e-12)
    opencv = pose.change_camera(at, "body", "opencv")[:3, :3]
    np.testing.assert_allclose(opencv, np.stack([-left, -up, forward], 1), atol=1e-12)
    opengl = pose.change_camera(at, "body", "opengl")[:3, :3]
    np.testing.assert_allclose(opengl, np.stack([-left, up, -forward], 1), atol=1e-12)


def test_a_y_up_world():
    up = pose.change_world(pose.make(np.eye(3), np.array([0.0, 1, 0])), "y_up")
    np.testing.assert_allclose(up[:3, 3], [0, 0, 1], atol=1e-12)
    assert np.linalg.det(up[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize(
    ("slots", "text"),
    [
        ((0, 0, 0, 0, 0, math.radians(30)), "turn left 30°"),
        ((0, 0, 0, 0, 0, math.radians(-22.5)), "turn right 22.5°"),
        ((0, 0, 0, 0, math.radians(-5), 0), "tilt up 5°"),
        ((0, 0, 0, math.radians(10), 0, 0), "roll right 10°"),
        ((1.2, 0, 0, 0, 0, 0), "move forward 1.2 m"),
        ((0, -0.5, 0.25, 0, 0, 0), "move right 0.5 m, move up 0.25 m"),
        ((0.001, 0, 0, 0, 0, 0.0004), "stay"),
        # first the turn, then the way along the new axes
        ((0, 2, 0, 0, 0, math.pi / 2), "turn left 90°, move forward 2 m"),
    ],
)
def test_motions_in_words(slots, text):
    assert pose.describe(np.array(slots, np.float64)) == text


@given(motions)
def test_words_are_never_empty(slots):
    assert pose.describe(slots).strip()


def test_a_pose_with_few_digits_is_made_rigid():
    """The numbers of a real connectivity file have six digits."""
    numbers = [-0.934268, -0.00147015, -0.35657, -5.48891, 0.356526, -0.0200643, -0.93407, 1.4484]
    numbers += [-0.00578122, -0.999798, 0.0192692, 1.53509, 0, 0, 0, 1]
    at = pose.rigid(numbers)
    np.testing.assert_allclose(at[:3, :3].T @ at[:3, :3], np.eye(3), atol=1e-14)
    np.testing.assert_allclose(at.ravel(), numbers, atol=2e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.diag([1, 1, -1, 1]), "determinant is -1"),
        (np.diag([1, 1, 2, 1]), "determinant is 2"),
        (np.diag([2, 0.5, 1, 1]), "not perpendicular"),
        (np.diag([1, 1, 1, 2]), "last row"),
        (np.eye(3), "shape (3, 3)"),
        ([1.0] * 15, "shape (15,)"),
        ([math.nan] * 16, "not finite"),
        ([1e300] * 16, "very far away"),
        ("pose", "not 16 numbers"),
        (None, "shape ()"),
        ([[1], [2, 3]], "not 16 numbers"),
        ([{}] * 16, "not 16 numbers"),
        ([2**70] * 16, "very far away"),
    ],
)
def test_a_pose_that_is_not_rigid(values, reason):
    with pytest.raises(DataError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        pose.rigid(values, "the pose")
