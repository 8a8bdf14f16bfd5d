"""Bridge's raw recordings against an independent reading by plain pickle and Pillow."""

import itertools
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines import plan
from pipelines.audit import Opened, audit
from pipelines.ops import pickles
from pipelines.ops.unify import unify
from pipelines.sources import bridge
from schemas import SLOTS, DataError, Tier, UsageError
from tests.command import files_of, unisim
from tests.table import read_table

SLOT_NAMES = [slot.name for slot in SLOTS]
EARLY, LATE = (
    "icra/toysink1/lift_bowl/03/2021-07-01_12-00-00/raw/traj_group0",
    "rss/toykitchen2/set_table/00/2022-01-01_00-00-00/raw/traj_group0",
)


def expected(folder: Path, camera: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Frames, actions that led to all but the first, first state and text, as the owners pair them:
    observations [1:] with actions [:-1] before 2021-07-23."""
    actions = pickle.loads((folder / "policy_out.pkl").read_bytes())
    actions = np.array([a["actions"] if isinstance(a, dict) else a for a in actions])
    states = pickle.loads((folder / "obs_dict.pkl").read_bytes())["full_state"]
    paths = sorted((folder / camera).iterdir(), key=lambda p: int(re.findall(r"\d+", p.name)[0]))
    frames = np.stack([np.asarray(Image.open(path)) for path in paths])
    if "2021-07-01" in str(folder):
        frames, states, actions = frames[1:], states[1:], actions[:-1]
    lang = folder / "lang.txt"
    text = lang.read_text().splitlines()[0] if lang.exists() else ""
    return frames, actions, states[0], text


def test_plan_prepare_audit_twice_and_every_value_is_that_of_the_raw_files(tmp_path):
    path = bridge.fake_raw(tmp_path, 0)
    tables = []
    for i in range(2):
        out = tmp_path / f"out{i}"
        flags = ["--source", f"bridge={path}", "--out", out, "--tier", "48x64:raw"]
        flags += ["--shard-mb", "0.3"]
        unisim("prepare", *flags, "--error-budget", "1")
        assert list(audit(Opened(str(out)))) == []
        tables.append(files_of(out))
    assert tables[0] == tables[1]
    out = tmp_path / "out0"
    dead = pq.read_table(out / "dead_letters.parquet").to_pylist()
    assert {row["key"]: row["episodes"] for row in dead} == {
        f"{LATE}/traj1": 1,  # its pickle asks for a function
        f"{EARLY}/traj1": 1,  # has no obs_dict.pkl
        f"{LATE}/traj2@images1": 1,  # one image is cut
        f"{EARLY}/traj2@images0": 1,  # one image is missing
        f"{LATE.replace('/raw', 'lmdb/raw')}/traj0": 0,  # the owners leave it out
    }
    whole: dict[str, list] = {}
    for chunk in read_table(out, Tier(48, 64, "raw")):
        whole.setdefault(chunk.episode_id, []).append(chunk)
    assert {name.split("@")[1] for name in whole} == {"images0", "images1"}
    assert len(whole) == 10
    for name, parts in whole.items():
        key, camera = name.split("@")
        frames, actions, state, text = expected(path / key, camera)
        np.testing.assert_array_equal(np.concatenate([part.frames for part in parts]), frames)
        times = np.concatenate([part.times for part in parts])
        np.testing.assert_allclose(times, np.arange(len(frames)) / 5, atol=1e-5)
        controls = np.concatenate([part.controls for part in parts])
        controls = controls[:, [SLOT_NAMES.index(slot) for slot in bridge.INFO.slots]]
        np.testing.assert_allclose(controls[1:], actions, atol=1e-6)
        assert (controls[0, :6] == 0).all() and controls[0, 6] == np.float32(state[6])
        for part in parts:
            assert part.text == text or not text
            assert (part.source_version, part.source_uri, part.source_range) == (
                "2.0.0",
                key,
                camera,
            )


def read(path: Path, target_bytes: int = 16_000_000) -> dict[str, list | DataError]:
    """View or key -> (control, image, text) of every frame, or the error."""
    found = {}
    for unit in bridge.units(str(path), target_bytes):
        for item in bridge.episodes(unit):
            if isinstance(item, DataError):
                found[item.key] = item
                continue
            name = f"{item.id}@{item.view}"
            try:
                steps = unify(item.frames, item.controls)
                found[name] = [(step.control, step.image(), step.text) for step in steps]
            except DataError as e:
                found[name] = e
    return found


def good(found: dict[str, list | DataError]) -> set[str]:
    return {name for name, item in found.items() if not isinstance(item, DataError)}


@pytest.fixture
def corpus(tmp_path) -> Path:
    return bridge.fake_raw(tmp_path, 1, traps=False)


def middle(image: np.ndarray) -> np.ndarray:
    """(x, y) of the red square's middle."""
    rows, columns = np.nonzero((image[:, :, 0] > 150) & (image[:, :, 1] < 80))
    return np.array([columns.mean(), rows.mean()])


def test_what_the_frames_show_is_what_the_controls_say(corpus):
    """On both sides of 2021-07-23, the square moves by a pixel per 0.01 m of the control."""
    found = read(corpus)
    assert {EARLY in name for name in found} == {True, False}
    for name, steps in found.items():
        assert isinstance(steps, list) and len(steps) > 10
        sign = 1 if name.endswith("images0") else -1  # the other camera sees it mirrored
        for before, after in itertools.pairwise(steps):
            moved = (middle(after[1]) - middle(before[1])) * [sign, 1]
            np.testing.assert_allclose(moved, after[0][:2] * 100, atol=0.5)


@pytest.mark.parametrize(
    ("date", "lags"),
    [
        ("2021-07-22_23-59-59", True),
        ("2021-07-23_00-00-00", False),
        ("2020-12-31_00-00-00", True),
        ("2023-01-01_10-00-00", False),
    ],
)
def test_the_shift_ends_on_2021_07_23(tmp_path, date, lags):
    path = bridge.fake_raw(tmp_path, 1, traps=False)
    source = path / LATE / "traj0"
    images = len(list((source / "images0").iterdir()))
    target = tmp_path / "other" / date / "raw" / "traj_group0" / "traj0"
    shutil.copytree(source, target)
    # the date is found below the path and in the path itself
    for top in (tmp_path / "other", tmp_path / "other" / date):
        found = read(top)
        lengths = [len(x) for x in found.values() if not isinstance(x, DataError)]
        assert lengths == [images - lags] * 2


def test_units_hold_whole_trajectories_and_cut_by_size(corpus):
    one = list(bridge.units(str(corpus)))
    assert len(one) == 1 and one[0].split is None and one[0].version == "2.0.0"
    several = list(bridge.units(str(corpus), 1))
    assert len(several) == len({unit.id for unit in several}) == 4
    assert sum(unit.cost for unit in several) == one[0].cost
    assert sum(unit.frames for unit in several) == one[0].frames
    assert one[0].frames == pytest.approx(8 * 38, abs=8)
    whole, parts = read(corpus), read(corpus, 1)
    assert list(whole) == list(parts) and len(whole) == 8
    for name, steps in whole.items():
        other = parts[name]
        assert isinstance(steps, list) and isinstance(other, list)
        for x, y in zip(steps, other, strict=True):
            np.testing.assert_array_equal(x[0], y[0])
            np.testing.assert_array_equal(x[1], y[1])


def test_a_moved_corpus_has_the_same_plan(corpus, tmp_path):
    def planned(path: Path) -> plan.Plan:
        return plan.make([("bridge", str(path))], tiers=[Tier(24, 40, "raw")], fps={})

    before, after = planned(corpus), planned(corpus.rename(tmp_path / "moved"))
    assert before.digest() == after.digest()
    assert before.to_json().count(str(tmp_path)) == 1  # the root alone
    assert str(tmp_path) not in str(before.datasets[0].planned.table.to_pylist())


def set_pickle(name: str, value: object):
    return lambda folder: (folder / name).write_bytes(pickle.dumps(value, 4))


def actions_of(folder: Path) -> list:
    return pickle.loads((folder / "policy_out.pkl").read_bytes())


def with_actions(change):
    def run(folder: Path) -> None:
        actions = np.array([step["actions"] for step in actions_of(folder)])
        set_pickle("policy_out.pkl", change(actions))(folder)

    return run


def with_states(change):
    def run(folder: Path) -> None:
        states = pickle.loads((folder / "obs_dict.pkl").read_bytes())["full_state"]
        set_pickle("obs_dict.pkl", change(states))(folder)

    return run


def cyclic() -> list:
    value: list = []
    value.append(value)
    return value


def shared(depth: int = 40) -> list:
    value: list = [0.0]
    for _ in range(depth):
        value = [value, value]
    return value


LOSES_ALL = {
    "no actions": lambda f: (f / "policy_out.pkl").unlink(),
    "no states": lambda f: (f / "obs_dict.pkl").unlink(),
    "an empty file of actions": lambda f: (f / "policy_out.pkl").write_bytes(b""),
    "a web page": lambda f: (f / "policy_out.pkl").write_bytes(b"<html>404</html>"),
    "half the actions": lambda f: (f / "policy_out.pkl").write_bytes(
        (f / "policy_out.pkl").read_bytes()[:200]
    ),
    "a huge file": lambda f: (f / "policy_out.pkl").write_bytes(bytes(pickles.MAX_BYTES + 1)),
    "an empty list of actions": set_pickle("policy_out.pkl", []),
    "None for actions": set_pickle("policy_out.pkl", None),
    "a number for actions": set_pickle("policy_out.pkl", np.float64(1)),
    "text for actions": set_pickle("policy_out.pkl", "actions"),
    "dicts without actions": set_pickle("policy_out.pkl", [{"action": np.zeros(7)}] * 12),
    "lists for actions": with_actions(lambda a: a.tolist()),
    "a list that holds itself": set_pickle("policy_out.pkl", cyclic()),
    "a list of 2**40 parts": set_pickle("policy_out.pkl", shared()),
    "actions of four numbers": with_actions(lambda a: list(a[:, :4])),
    "an action short": with_actions(lambda a: list(a[:-1])),
    "an action more": with_actions(lambda a: [*a, a[0]]),
    "NaN": with_actions(lambda a: list(np.where(np.arange(len(a))[:, None] == 3, np.nan, a))),
    "infinite": with_actions(lambda a: list(np.where(np.arange(len(a))[:, None] == 3, np.inf, a))),
    "a list for observations": set_pickle("obs_dict.pkl", [1]),
    "no full_state": with_states(lambda s: {"state": s}),
    "text for full_state": set_pickle("obs_dict.pkl", {"full_state": "x"}),
    "states of six numbers": with_states(lambda s: {"full_state": s[:, :6]}),
    "a state short": with_states(lambda s: {"full_state": s[:-1]}),
    "a state of one axis": with_states(lambda s: {"full_state": s[:, 0]}),
    "NaN in the first gripper": with_states(lambda s: {"full_state": s * np.nan}),
    "objects": set_pickle("obs_dict.pkl", {"full_state": np.zeros((13, 7), object)}),
    "no images": lambda f: [shutil.rmtree(f / f"images{i}") for i in range(2)],
    "text that is not UTF-8": lambda f: (f / "lang.txt").write_bytes(b"\xff\xfe"),
    "a book": lambda f: (f / "lang.txt").write_bytes(b"a" * (2 << 20)),
}


@pytest.mark.parametrize("name", LOSES_ALL)
def test_a_bad_trajectory_costs_itself_alone(corpus, name):
    before = good(read(corpus))
    LOSES_ALL[name](corpus / LATE / "traj0")
    found = read(corpus)
    assert good(found) == {n for n in before if f"{LATE}/traj0@" not in n} and len(before) == 8
    lost = [item for item in found.values() if isinstance(item, DataError)]
    assert lost and all("\n" not in item.reason and len(item.reason) < 300 for item in lost)


LOSES_ONE = {
    "a cut image": lambda f: (f / "im_3.jpg").write_bytes((f / "im_3.jpg").read_bytes()[:200]),
    "no image": lambda f: (f / "im_3.jpg").write_bytes(b"<html>"),
    "a missing image": lambda f: (f / "im_3.jpg").unlink(),
    "a missing first image": lambda f: (f / "im_0.jpg").unlink(),
    "a missing last image": lambda f: (f / "im_12.jpg").unlink(),
    "an image more": lambda f: shutil.copy(f / "im_0.jpg", f / "im_13.jpg"),
    "a gap": lambda f: (f / "im_12.jpg").rename(f / "im_14.jpg"),
    "a bomb": lambda f: Image.new("L", (9_000, 9_000)).save(f / "im_0.jpg"),
}


@pytest.mark.parametrize("name", LOSES_ONE)
def test_a_bad_camera_costs_its_view_alone(corpus, name):
    before = good(read(corpus))
    LOSES_ONE[name](corpus / LATE / "traj0" / "images1")
    found = read(corpus)
    assert before - good(found) == {f"{LATE}/traj0@images1"}
    assert isinstance(found[f"{LATE}/traj0@images1"], DataError)


def test_a_pickle_with_a_command_does_not_run_it(corpus, tmp_path):
    marker = tmp_path / "ran"

    class Command:
        def __reduce__(self):
            import os

            return os.system, (f"touch {marker}",)

    before = good(read(corpus))
    for name in ("policy_out.pkl", "obs_dict.pkl"):
        folder = corpus / LATE / "traj0"
        kept = (folder / name).read_bytes()
        set_pickle(name, [Command()])(folder)
        found = read(corpus)
        assert "system" in str(found[f"{LATE}/traj0"]) and not marker.exists()
        assert before - good(found) == {f"{LATE}/traj0@images{i}" for i in range(2)}
        (folder / name).write_bytes(kept)
    assert good(read(corpus)) == before


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        (b"", ""),
        (b"\n", ""),
        (b"put the pot on the stove\n", "put the pot on the stove"),
        (b"put it down\r\nconfidence: 0.9\n", "put it down"),
        (b"lift it\nlift the pot\n", "lift it"),
        (b"confidence: 1\n", ""),
        ("schön\n".encode(), "schön"),
    ],
)
def test_only_the_first_line_is_the_instruction(corpus, content, text):
    lang = corpus / LATE / "traj0" / "lang.txt"
    lang.unlink(missing_ok=True)
    if content is not None:
        lang.write_bytes(content)
    steps = read(corpus)[f"{LATE}/traj0@images0"]
    assert isinstance(steps, list) and {step[2] for step in steps} == {text}


def test_actions_may_be_dicts_arrays_or_one_array(corpus):
    folder = corpus / LATE / "traj0"
    actions = np.array([step["actions"] for step in actions_of(folder)])
    forms = [actions, list(actions), tuple(actions), [{"actions": a} for a in actions]]
    forms += [[{"actions": actions[0]}, *actions[1:]], list(actions.astype("f4"))]
    for form in forms:
        set_pickle("policy_out.pkl", form)(folder)
        steps = read(corpus)[f"{LATE}/traj0@images0"]
        assert isinstance(steps, list)
        np.testing.assert_allclose([s[0][:7] for s in steps[1:]], actions, atol=1e-7)


def test_the_last_state_may_lack_in_early_recordings_only(corpus):
    before = good(read(corpus))
    for group, wanted in (
        (EARLY, before),
        (LATE, before - {f"{LATE}/traj0@images{i}" for i in (0, 1)}),
    ):
        with_states(lambda s: {"full_state": s[:-1]})(corpus / group / "traj0")
        assert good(read(corpus)) == wanted


def test_black_cameras_are_left_out(corpus):
    black = Image.new("RGB", (64, 48))
    for camera in ("images1", "images2", "depth_images0"):
        folder = corpus / LATE / "traj0" / camera
        folder.mkdir(exist_ok=True)
        for i in range(13):
            black.save(folder / f"im_{i}.jpg")
    found = read(corpus)
    assert [name for name in found if f"{LATE}/traj0" in name] == [f"{LATE}/traj0@images0"]
    for i in range(13):
        black.save(corpus / LATE / "traj0" / "images0" / f"im_{i}.jpg")
    assert "black" in str(read(corpus)[f"{LATE}/traj0"])


@pytest.mark.parametrize(
    "name", ["today", "2022-01-01", "2022-1-1_00-00-00", "x2022-01-01_00-00-00"]
)
def test_without_a_date_images_and_actions_cannot_be_paired(corpus, name):
    before = good(read(corpus))
    dated = (corpus / LATE).parents[1]
    dated.rename(dated.with_name(name))
    found = read(corpus)
    lost = [item for item in found.values() if isinstance(item, DataError)]
    assert len(lost) == 2 and all("YYYY-MM-DD" in str(item) for item in lost)
    assert good(found) == {n for n in before if EARLY in n}


@pytest.mark.parametrize("name", ["a@b", "a\nb", ".hidden", "a*b", "a\udcffb", "a[0]"])
def test_odd_folder_names_cost_what_is_below_them(corpus, name):
    before = good(read(corpus))
    above = (corpus / LATE).parents[3]
    above.rename(above.with_name(name))
    made = plan.make([("bridge", str(corpus))], tiers=[Tier(24, 40, "raw")], fps={})
    made.to_json().encode()
    found = read(corpus)
    assert good(found) == {n for n in before if EARLY in n}
    lost = [item for item in found.values() if isinstance(item, DataError)]
    assert len(lost) == 2 and all(item.key and "\n" not in item.key for item in lost)


def test_a_trajectory_that_went_after_the_plan(corpus):
    units = list(bridge.units(str(corpus)))
    shutil.rmtree(corpus / LATE / "traj0")
    items = [item for unit in units for item in bridge.episodes(unit)]
    lost = [item for item in items if isinstance(item, DataError)]
    assert [item.key for item in lost] == [f"{LATE}/traj0"] and len(items) == 7


def test_an_image_that_went_after_the_listing(corpus):
    episodes = [e for unit in bridge.units(str(corpus)) for e in bridge.episodes(unit)]
    (corpus / LATE / "traj0" / "images0" / "im_5.jpg").unlink()
    for episode in episodes:
        assert not isinstance(episode, DataError)
        if episode.id == f"{LATE}/traj0" and episode.view == "images0":
            frame = list(episode.frames)[5]
            with pytest.raises(DataError, match=r"im_5\.jpg is missing"):
                frame.image()


@pytest.mark.parametrize("inside", [(), ("README.md",), ("2022-01-01_00-00-00/traj0/lang.txt",)])
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, inside):
    for name in inside:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with pytest.raises(UsageError, match=r"no dataset_info\.json") as error:
        list(bridge.units(str(tmp_path)))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert "unisim sources bridge" in str(error.value)


def test_the_fake_has_the_same_bytes_each_time(tmp_path):
    for make in (bridge.fake_raw, bridge.fake_oxe):
        one, two, other = (
            files_of(make(tmp_path / f"{make.__module__}{i}", seed))
            for i, seed in enumerate((7, 7, 8))
        )
        assert one == two and one != other
