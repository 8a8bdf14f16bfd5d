"""RT-2's string by its laws and by an independent reading; RT-1's episodes told in strings."""

import contextlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines import plan
from pipelines.episode import Episode
from pipelines.ops.rt2_string import BINS, HIGH, LOW, NAMES, WIDTH, decode, encode
from pipelines.ops.unify import unify
from pipelines.sources import rt1, rt2
from schemas import SLOTS, DataError, Tier, UsageError
from tests.command import unisim
from tests.table import read_table

INDEX = [slot.name for slot in SLOTS]
SEVEN = "ee_dx ee_dy ee_dz ee_droll ee_dpitch ee_dyaw gripper_delta".split()
STILL = "1 127 127 127 127 127 127 127"
numbers = hnp.arrays(np.float64, 7, elements=st.floats(-3, 3))
texts = st.tuples(st.integers(0, 1), *[st.integers(0, 255)] * 7).map(
    lambda x: " ".join(map(str, x))
)


def bins_of(values: np.ndarray) -> list[int]:
    """The bins by searching their edges, which stand 255 steps apart; clipped before."""
    edges = [np.linspace(low, high, 256) for low, high in zip(LOW, HIGH, strict=True)]
    found = [
        np.searchsorted(edge, value, "right") - 1 for edge, value in zip(edges, values, strict=True)
    ]
    return [int(x) for x in np.clip(found, 0, 255)]


@given(numbers, st.booleans())
def test_decoding_comes_back_within_half_a_bin(values, terminate):
    action = decode(encode(values, terminate))
    assert action.terminate == terminate
    limited = np.clip(values, LOW, HIGH)
    assert (np.abs(action.values - limited) <= WIDTH / 2 + 1e-12).all()


@given(texts)
def test_encoding_comes_back_exactly(text):
    assert encode(*decode(text)) == text


@given(numbers)
def test_a_decoded_action_is_coded_as_itself(values):
    once = decode(encode(values))
    assert encode(once.values) == encode(values)
    np.testing.assert_array_equal(decode(encode(once.values)).values, once.values)


@given(numbers)
def test_the_bins_are_those_between_256_edges(values):
    text = encode(values)
    found = [int(word) for word in text.split()[1:]]
    # at an edge the two computations may round to either side
    shares = (np.clip(values, LOW, HIGH) - LOW) / (HIGH - LOW) * 255
    far = np.abs(shares - np.round(shares)) > 1e-9
    assert (np.array(found) == bins_of(values))[far].all()
    assert np.abs(np.array(found) - bins_of(values)).max() <= 1


@given(st.integers(0, 6), st.floats(-2, 2), st.floats(-2, 2))
def test_more_of_a_value_is_never_a_lower_bin(i, a, b):
    a, b = sorted((a, b))
    less, more = (decode(encode(np.eye(7)[i] * x)).values[i] for x in (a, b))
    assert less <= more


def test_every_integer_of_every_value():
    assert len(NAMES) == 7 and BINS == 256
    for k in range(256):
        text = " ".join(["1"] + [str(k)] * 7)
        assert encode(*decode(text)) == text
        expected = np.minimum(LOW + (k + 0.5) * (HIGH - LOW) / 255, HIGH)
        np.testing.assert_allclose(decode(text).values, expected, atol=1e-12)


def test_what_is_held_still_decodes_to_nothing():
    assert encode(np.zeros(7)) == STILL
    np.testing.assert_array_equal(decode(STILL).values, np.zeros(7))


def test_the_published_example():
    """DeepMind's; the paper's own lacks its last number."""
    action = decode("1 128 91 241 5 101 127 217")
    assert not action.terminate
    middle = (np.array([128, 91, 241, 5, 101, 127, 217]) + 0.5) / 255 * 2 - 1
    np.testing.assert_allclose(action.values, middle * HIGH, atol=1e-12)
    with pytest.raises(DataError, match="7 words"):
        decode("1 128 91 241 5 101 127")


GOOD = "1 128 91 241 5 101 127 "


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "1 words"),
        (GOOD + "217 0", "9 words"),
        (GOOD + "217 ", "9 words"),
        (" " + GOOD + "217", "9 words"),
        (GOOD + " 217", "9 words"),
        (GOOD + "256", "gripper 256 is above 255"),
        (GOOD + "99999999999999999999", "no integer"),
        (GOOD + "-1", "no integer"),
        (GOOD + "+1", "no integer"),
        (GOOD + "1.0", "no integer"),
        (GOOD + "1e2", "no integer"),
        (GOOD + "0x1", "no integer"),
        (GOOD + "007", "no integer"),
        (GOOD + "1_0", "no integer"),
        (GOOD + "٣", "no integer"),
        (GOOD + "²", "no integer"),
        (GOOD + "12\n", "no integer"),
        (GOOD + "nan", "no integer"),
        (GOOD.replace(" ", "\t") + "217", "1 words"),
        ("2 128 91 241 5 101 127 217", "terminate flag 2"),
        ("\ud800 1 1 1 1 1 1 1", "no integer"),
        ("9 " * 100_000, "100001 words"),
    ],
)
def test_anything_else_is_refused(text, reason):
    with pytest.raises(DataError, match=reason) as e:
        decode(text)
    assert e.value.reason.isprintable() and len(e.value.reason) < 300


words = st.lists(st.text("0129- ", max_size=3), min_size=8, max_size=8).map(" ".join)


@given(st.text() | words)
def test_a_text_is_refused_or_comes_back_as_it_was(text):
    with contextlib.suppress(DataError):
        assert encode(*decode(text)) == text


@pytest.mark.parametrize("values", [np.zeros(6), np.zeros(8), np.zeros((1, 7)), np.full(7, np.nan)])
def test_only_seven_finite_numbers_are_written(values):
    with pytest.raises(DataError, match="7 finite numbers"):
        encode(values)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """The fake, traps included, as RT-1 and as RT-2."""
    root = tmp_path_factory.mktemp("rt2")
    folder = rt1.fake(root / "raw", 5)
    unisim(
        *("prepare", "--source", f"rt1={folder}", "--source", f"rt2={folder}"),
        *("--out", root / "out", "--tier", "24x40:raw", "--error-budget", "1"),
    )
    assert "0 violations" in unisim("audit", root / "out").stdout
    return root / "out"


def by_episode(out: Path, dataset: str) -> dict[str, list]:
    chunks = [c for c in read_table(out, Tier(24, 40, "raw")) if c.dataset == dataset]
    groups = itertools.groupby(chunks, lambda chunk: chunk.episode_id)
    return {name: list(group) for name, group in groups}


def test_the_slots_are_rt1s_to_half_a_bin_and_the_text_their_string(table):
    one, two = (by_episode(table, name) for name in ("rt1", "rt2"))
    driven = "train-00001-000000"  # moves its base
    assert set(one) == {*two, driven} and len(two) == 4
    slots = [INDEX.index(name) for name in SEVEN]
    signs = np.array([1] * 6 + [-1])
    for name, chunks in two.items():
        moves = np.concatenate([chunk.controls for chunk in one[name]])[:, slots] * signs
        told = np.concatenate([chunk.controls for chunk in chunks])[:, slots] * signs
        assert (np.abs(told - moves) <= WIDTH / 2 + 1e-6).all()
        spoken = [chunk.text for chunk in chunks for _ in range(chunk.num_frames)]
        assert spoken == [" ".join(map(str, [1, *bins_of(row)])) for row in moves]
        np.testing.assert_allclose(told, [decode(text).values for text in spoken], atol=1e-6)
        assert spoken[0] == STILL and not told[0].any()
        # a string of its own is a chunk of its own
        assert all(a.text != b.text for a, b in itertools.pairwise(chunks))
        assert set(np.flatnonzero(chunks[0].control_mask)) == set(slots)
        for values in (lambda chunk: chunk.pixels(), lambda chunk: chunk.times):
            wanted, got = (np.concatenate([values(c) for c in x]) for x in (one[name], chunks))
            np.testing.assert_array_equal(got, wanted)


def test_clips_are_counted_as_in_rt1(table):
    datasets = json.loads((table / "manifest.json").read_text())["datasets"]
    assert [dataset["clipped"] for dataset in datasets] == [{"ee_dy": 1}] * 2


def test_a_driven_base_is_a_declared_loss(table):
    rows = pq.read_table(table / "dead_letters.parquet").to_pylist()
    letters = [row for row in rows if row["dataset"] == "rt2"]
    assert [(x["key"], x["stage"], x["episodes"]) for x in letters] == [
        ("train-00000-000000", "read", 1),
        ("train-00001-000000", "act", 0),
        ("train-00001-000003", "decode", 1),
    ]
    assert "base" in letters[1]["reason"]


def of_strings(root: Path, episodes: list[list[bytes]]) -> Path:
    """An RLDS folder whose `steps/action` are strings, its records written by TensorFlow."""
    import tensorflow as tf

    def strings(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    jpeg = tf.io.encode_jpeg(np.full((48, 64, 3), 90, np.uint8)).numpy()
    items = []
    for actions in episodes:
        feature = {
            "steps/action": strings(actions),
            "steps/observation/image": strings([jpeg] * len(actions)),
        }
        features = tf.train.Features(feature=feature)
        items.append(tf.train.Example(features=features).SerializeToString())
    root = root / "0.1.0"
    root.mkdir(parents=True)
    rt1.write_rlds(root, [items], {"action": (), "observation": ("image",)})
    return root


def read(folder: Path) -> list[Episode | DataError]:
    return [item for unit in rt2.units(str(folder)) for item in rt2.episodes(unit)]


def test_stored_strings_are_read_as_they_are(tmp_path):
    spoken = [b"1 128 91 241 5 101 127 217", b"1 0 0 0 0 0 0 0", b"0 255 255 255 255 255 255 255"]
    folder = of_strings(tmp_path / "raw", [[*spoken, b"the last one means nothing"]])
    (episode,) = read(folder)
    assert isinstance(episode, Episode)
    frames = list(episode.frames)
    assert [frame.text for frame in frames] == [STILL, *(text.decode() for text in spoken)]
    controls = np.stack([frame.control for frame in frames if frame.control is not None])
    assert not controls[0].any()
    limits = np.array([1, 1, 1, math.pi / 2, math.pi / 2, math.pi / 2, 1])
    np.testing.assert_allclose(controls[2], -limits * 254 / 255)
    np.testing.assert_allclose(controls[3], limits)
    opening = [
        step.control[INDEX.index("gripper_delta")] for step in unify(frames, rt2.INFO.controls)
    ]
    np.testing.assert_allclose(opening, [0, -(217.5 / 255 * 2 - 1), 254 / 255, -1])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"1 128 91 241 5 101 127", "7 words"),
        (b"1 1 1 1 1 1 1 256", "above 255"),
        (b"stop", "1 words"),
        (b"", "1 words"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_string_that_is_none_costs_its_episode(tmp_path, bad, reason):
    still = STILL.encode()
    folder = of_strings(tmp_path / "raw", [[still] * 3, [still, bad, still], [still] * 3])
    found = read(folder)
    assert [isinstance(item, DataError) for item in found] == [False, True, False]
    assert isinstance(found[1], DataError) and found[1].key == "train-00000-000001"
    assert reason in found[1].reason


def write(root: Path, modes: list[list[int]]) -> Path:
    """A folder of RT-1's form with an episode for each list of `terminate_episode` classes."""
    frames = np.full((4, 48, 64, 3), 90, np.uint8)
    items = [rt1.record(np.zeros((4, 10)), np.array(mode), frames, "push") for mode in modes]
    root = root / "0.1.0"
    root.mkdir(parents=True)
    rt1.write_rlds(root, [items], rt1.FEATURES)
    return root


def test_a_step_that_terminates_says_so(tmp_path):
    (episode,) = read(write(tmp_path / "raw", [[1, 0, 1, 0]]))
    assert isinstance(episode, Episode)
    ends = STILL.replace("1", "0", 1)
    assert [frame.text for frame in episode.frames] == [STILL, STILL, ends, STILL]


def test_classes_that_are_none_cost_their_episode(tmp_path):
    folder = write(tmp_path / "raw", [[1, 1, 1, 0]] * 3)
    file = folder / "fractal20220817_data-train.tfrecord-00000-of-00001"
    import tensorflow as tf

    records = [bytes(x) for x in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()]
    for i, classes in ((1, [0, 0, 0] * 4), (2, [0, 7, 0] * 4)):
        parsed = tf.train.Example.FromString(records[i])
        values = parsed.features.feature["steps/action/terminate_episode"].int64_list.value
        values[:] = classes
        records[i] = parsed.SerializeToString()
    rt1.write_rlds(folder, [records], rt1.FEATURES)
    found = read(folder)
    assert [isinstance(item, DataError) for item in found] == [False, True, True]
    assert all("terminate_episode" in str(item) for item in found[1:])


def test_a_folder_of_something_else_is_refused(tmp_path):
    from pipelines.sources import bridge

    with pytest.raises(UsageError, match=r"nor a string as steps/action; `unisim sources rt2`"):
        list(rt2.units(str(bridge.fake(tmp_path, 0))))


def test_a_rate_that_drops_frames_is_refused(tmp_path):
    path = rt2.fake(tmp_path, 0)
    with pytest.raises(UsageError, match="none may be dropped; give --fps rt2=3"):
        plan.make([("rt2", str(path))], tiers=[Tier(24, 40, "raw")], fps={"": 1.0})
    made = plan.make([("rt2", str(path))], tiers=[Tier(24, 40, "raw")], fps={"rt2": 3.0})
    assert made.datasets[0].fps == 3.0
