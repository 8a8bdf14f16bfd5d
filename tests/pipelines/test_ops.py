"""Laws of resampling, chunking, unifying and writing controls as text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.episode import Control, Frame
from pipelines.ops.action_text import controls_text
from pipelines.ops.chunk import chunks
from pipelines.ops.resample import resample
from pipelines.ops.unify import Step, unify
from schemas import NUM_SLOTS, SLOTS, DataError, mask_of
from schemas.controls import INDEX


def _no_image() -> np.ndarray:
    raise AssertionError("resampling decodes nothing")


ALL_SLOTS = tuple(Control(name=slot.name, slot=slot.name, unit=slot.unit) for slot in SLOTS)


def steps_of(times, controls=None, texts=None) -> list[Step]:
    return list(unify(frames_of(times, controls, texts), () if controls is None else ALL_SLOTS))


def frames_of(times, controls=None, texts=None) -> list[Frame]:
    return [
        Frame(
            time=float(t),
            image=_no_image,
            control=None if controls is None else controls[i],
            text="" if texts is None else texts[i],
        )
        for i, t in enumerate(times)
    ]


def random_controls(rng: np.random.Generator, n: int) -> np.ndarray:
    controls = rng.uniform(-0.4, 0.4, (n, NUM_SLOTS))
    controls[0, [i for i, s in enumerate(SLOTS) if s.compose != "last"]] = 0
    return controls


def test_nothing_dropped_means_nothing_changed():
    controls = random_controls(np.random.default_rng(0), 12)
    kept = list(resample(steps_of(np.arange(12) / 5, controls), 5.0))
    assert len(kept) == 12
    for step, control in zip(kept, controls, strict=True):
        assert (step.control == control).all()


@pytest.mark.parametrize(
    ("native", "fps", "expected"),
    [(30, 10, 10), (30, 8, 8), (59.94, 12, 12), (5, 10, 5), (24, 24, 24)],
)
def test_rate_after_resampling(native, fps, expected):
    kept = list(resample(steps_of(np.arange(int(native * 10)) / native), fps))
    assert abs(len(kept) - expected * 10) <= 1
    gaps = np.diff([frame.time for frame in kept])
    assert gaps.max() <= 1 / expected + 1 / native + 1e-9


def test_times_start_at_zero_and_must_increase():
    kept = list(resample(steps_of([7.5, 7.6, 7.9]), None))
    assert [round(frame.time, 6) for frame in kept] == [0.0, 0.1, 0.4]
    with pytest.raises(DataError, match="increasing"):
        list(resample(steps_of([0.0, 0.1, 0.1]), None))
    with pytest.raises(DataError, match="finite"):
        list(resample(steps_of([0, 1], np.full((2, NUM_SLOTS), np.nan)), None))


@given(
    st.lists(st.tuples(st.floats(1e-3, 5), st.none() | st.floats(0, 1)), min_size=1, max_size=20),
    st.none() | st.floats(0.05, 1000),
)
def test_overlap_is_unknown_where_frames_were_dropped(gaps, fps):
    times = np.cumsum([gap for gap, _ in gaps])
    frames = [
        Frame(time=float(time), image=_no_image, overlap=overlap)
        for time, (_, overlap) in zip(times, gaps, strict=True)
    ]
    kept = list(resample(unify(frames, ()), fps))
    at = [int(np.argmin(np.abs(times - times[0] - step.time))) for step in kept]
    follows = [b - a == 1 for a, b in zip([-1, *at[:-1]], at, strict=True)]
    assert fps is not None or all(follows)
    for step, i, next_to_it in zip(kept, at, follows, strict=True):
        assert step.overlap == (frames[i].overlap if next_to_it else None)


@pytest.mark.parametrize("overlap", [-0.001, 1.001, np.nan, np.inf])
def test_an_overlap_that_is_no_share_is_the_source_s_bug(overlap):
    with pytest.raises(ValueError, match="an overlap of"):
        Frame(time=0.0, image=_no_image, overlap=overlap)


@given(st.lists(st.sampled_from("ab"), max_size=60))
def test_chunks_keep_every_frame_once_in_order(texts):
    frames = steps_of(range(len(texts)), texts=texts)
    cut = list(chunks(frames))
    assert [f.time for run, _ in cut for f in run] == [f.time for f in frames]
    assert all(1 <= len(run) <= 16 and len({f.text for f in run}) == 1 for run, _ in cut)
    assert [last for _, last in cut] == [False] * (len(cut) - 1) + [True] * bool(cut)


@settings(deadline=None)
@given(st.integers(0, 1000), st.sets(st.sampled_from([slot.name for slot in SLOTS])))
def test_controls_text_is_never_empty(seed, names):
    control = np.random.default_rng(seed).uniform(-1, 1, NUM_SLOTS)
    assert controls_text(control, mask_of(sorted(names))).strip()


def test_controls_text_says_what_moves():
    control = np.zeros(NUM_SLOTS)
    mask = mask_of(["ee_dx", "ee_dy", "ee_dyaw", "gripper"])
    control[INDEX["ee_dx"]], control[INDEX["ee_dyaw"]], control[INDEX["gripper"]] = 0.05, 0.2, 1
    assert (
        controls_text(control, mask) == "move the arm x +0.050 m yaw +11 degrees, open the gripper"
    )
    assert controls_text(np.zeros(NUM_SLOTS), mask_of(["ee_dx"])) == "stay"
    assert controls_text(control, mask_of([])) == "observe"


def test_a_camera_is_spoken_of_as_its_viewer_would():
    names = [f"camera_d{axis}" for axis in ("x", "y", "yaw")]
    control = np.zeros(NUM_SLOTS)
    assert controls_text(control, mask_of(names)) == "stay"
    # 30° to the left and 1.2 m the new way: the slots hold the way along the axes before the turn
    turn = np.radians(30)
    control[[INDEX[name] for name in names]] = 1.2 * np.cos(turn), 1.2 * np.sin(turn), turn
    assert controls_text(control, mask_of(names)) == "turn left 30°, move forward 1.2 m"
    control[INDEX["camera_dz"]] = control[INDEX["camera_dpitch"]] = 0.5  # absent: not spoken of
    assert controls_text(control, mask_of(names)) == "turn left 30°, move forward 1.2 m"
    control[INDEX["gripper"]] = 1
    both = controls_text(control, mask_of([*names, "gripper"]))
    assert both == "turn left 30°, move forward 1.2 m, open the gripper"


def test_values_are_wrapped_clipped_counted_and_scaled_in_this_order():
    table = (
        Control(name="yaw", slot="ee_dyaw", unit="rad", wrap=True),
        Control(name="closed", slot="gripper", unit="1", scale=-1, offset=1, low=0, high=1),
        Control(name="x", slot="ee_dx", unit="m", low=-0.1, high=0.1),
    )
    values = [[6.27, 0.25, 0.05], [0.5, 1.5, -0.3]]
    first, second = unify(frames_of([0, 1], np.array(values)), table)
    names = ["ee_dyaw", "gripper", "ee_dx"]
    slots = [INDEX[name] for name in names]
    np.testing.assert_allclose(first.control[slots], [6.27 - 2 * np.pi, 0.75, 0.05])
    np.testing.assert_allclose(second.control[slots], [0.5, 0.0, -0.1])
    assert first.clipped.sum() == 0 and second.clipped[slots].tolist() == [0, 1, 1]
    both = list(resample([first, second._replace(time=0.1)], 1.0))
    assert len(both) == 1
    (later,) = list(resample([first, second._replace(time=0.1), first._replace(time=1)], 1.0))[1:]
    assert later.clipped.sum() == 2
    with pytest.raises(DataError, match="3 finite numbers"):
        list(unify(frames_of([0], np.zeros((1, 2))), table))
