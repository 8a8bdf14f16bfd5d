"""Ego4D: annotations to spans of video, and what may never be read of them."""

import collections
import dataclasses
import json
import math
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import plan, sources
from pipelines.episode import Episode, Source, Unit, split_of
from pipelines.ops import video
from pipelines.ops.labels import clean_text, ego4d_text
from pipelines.sources import ego4d
from schemas import DataError, Tier, UsageError
from tests.samples import sample

Items = dict[str, Episode | DataError]


def planned(path, target_bytes=10**9, **options) -> list[Unit]:
    """Units as they come back from a plan's JSON."""
    units = [dataclasses.asdict(unit) for unit in ego4d.units(str(path), target_bytes)]
    return [Unit(**unit | {"options": options}) for unit in json.loads(json.dumps(units))]


def read(path, target_bytes=10**9, **options) -> Items:
    """Every item of every unit by id."""
    found: Items = {}
    for unit in planned(path, target_bytes, **options):
        for item in ego4d.episodes(unit):
            key = item.key if isinstance(item, DataError) else item.id
            assert key not in found
            found[key] = item
    return found


def good(found: Items) -> dict[str, Episode]:
    return {key: item for key, item in found.items() if isinstance(item, Episode)}


def lost(found: Items) -> dict[str, DataError]:
    return {key: item for key, item in found.items() if isinstance(item, DataError)}


def frames(item) -> list[tuple[float, str]]:
    assert isinstance(item, Episode), item
    return [(frame.time, frame.text) for frame in item.frames]


def narration(time: Any, text: Any = "#C C walks"):
    return {"timestamp_sec": time, "narration_text": text, "annotation_uid": "x"}


def spoken(*points, **second):
    """A video's entry in narration.json from (seconds, text) of its first pass."""
    return {"status": "complete", "narration_pass_1": {"narrations": list(points)}} | second


def action(start, end, **changes):
    return {"start_sec": start, "end_sec": end, "narration_text": "#C C cuts"} | changes


def fho(uid, *actions, **interval):
    return {"video_uid": uid, "annotated_intervals": [{"narrated_actions": [*actions]} | interval]}


def step(start, end, text="cut the leek", *parts):
    return {"start_time": start, "end_time": end, "step_description": text, "segments": [*parts]}


def described(uid, **changes):
    return {"video_uid": uid, "duration_sec": 12.0, "redacted_intervals": []} | changes


def corpus(root, clip, videos, metadata=None, **annotations):
    """Annotation files by name, and the clip as each of the videos."""
    (root / "full_scale").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for uid in videos:
        (root / "full_scale" / f"{uid}.mp4").write_bytes(clip.read_bytes())
    metadata = [described(uid) for uid in videos] if metadata is None else metadata
    (root / "ego4d.json").write_text(json.dumps({"videos": metadata}))
    for name, value in annotations.items():
        value = {"videos": value} if isinstance(value, list) else value
        (root / "annotations" / f"{name}.json").write_text(json.dumps(value))
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """12 s at 5 fps; frame i is grey, and the brighter the later."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    images = [np.full((48, 64, 3), 4 * i, np.uint8) for i in range(60)]
    video.write_video(str(path), images, 5.0, "libx264")
    return path


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return ego4d.fake(tmp_path_factory.mktemp("fake"), 0)


def uids(fake) -> list[str]:
    return [v["video_uid"] for v in json.loads((fake / "ego4d.json").read_text())["videos"]]


def test_the_module_is_a_source():
    source = sources.get("ego4d")
    assert isinstance(source, Source) and source.INFO.slots == ()
    assert source.INFO.options[0].name == "max_seconds" and source.INFO.options[0].default == 4.0


def test_the_fake_holds_its_traps(fake):
    a, b, c, d, e, f = uids(fake)
    found = read(fake)
    reasons = {key: (error.stage, error.counts) for key, error in lost(found).items()}
    assert reasons == {
        f"{a}-fho-000002": ("annotate", False),  # redacted
        f"{a}-fho-000003": ("annotate", False),  # rejected
        f"{a}-fho-000004": ("annotate", False),  # not valid
        f"{a}-fho-000005": ("annotate", True),  # no text
        f"{a}-fho-000006": ("annotate", True),  # no length
        f"{b}-pass1-000006": ("annotate", True),  # no text
        f"{b}-pass1-000007": ("annotate", True),  # past the end
        f"{b}-pass1-000008": ("annotate", False),  # a summary
        f"{c}-goalstep-000000": ("annotate", False),  # of the test split
        e: ("read", True),  # missing
        f: ("annotate", False),  # not narrated
        f"grp-{a}": ("annotate", False),
    }
    assert "no hands" in lost(found)[f"{a}-fho-000003"].reason
    for key, item in good(found).items():
        if key.startswith(d):
            with pytest.raises(DataError, match="not a whole MP4"):
                list(item.frames)
            continue
        images = [frame.image() for frame in item.frames]
        assert images and all(image.shape == (48, 64, 3) for image in images)
        assert min(image.mean() for image in images) > 40  # a redacted one is black
    # the second pass is out of order in the file: its numbers are those of the file
    again = read(fake)
    assert frames(again[f"{c}-pass2-000001"])[0][0] < frames(again[f"{c}-pass2-000000"])[0][0]


def test_the_fake_is_h264_and_vp9_in_mp4(fake):
    codecs = []
    for uid in uids(fake)[:3]:
        with av.open(str(fake / "v2" / "full_scale" / f"{uid}.mp4")) as container:
            assert "mp4" in container.format.name
            codecs.append(container.streams.video[0].codec_context.name)
    assert codecs == ["h264", "vp9", "h264"] or codecs == ["h264", "libvpx-vp9", "h264"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_frames_are_those_of_the_file_on_its_own_clock(fake, number):
    """Streams that start at 0 and at 2 s; both codecs; against libav itself."""
    uid = uids(fake)[number]
    with av.open(str(fake / "v2" / "full_scale" / f"{uid}.mp4")) as container:
        theirs = {f.time: f.to_ndarray(format="rgb24") for f in container.decode(video=0)}
    start = 2.0 if number == 2 else 0.0
    assert math.isclose(min(theirs), start, abs_tol=0.21)
    found = good(read(fake))
    assert any(key.startswith(uid) for key in found)
    for key, item in found.items():
        if key.startswith(uid):
            low, high = map(float, item.source_range.removesuffix(" s").split("-"))
            wanted = [time for time in theirs if low <= time < high]
            ours = list(item.frames)
            assert [frame.time for frame in ours] == wanted
            for frame in ours:
                assert np.abs(frame.image().astype(int) - theirs[frame.time]).mean() < 2


def test_real_h264_is_read(tmp_path):
    bikes = sample("video/bikes.mp4")
    root = corpus(tmp_path, bikes, ["v"], fho_main=[fho("v", action(3.0, 4.5))])
    (item,) = good(read(root)).values()
    ours = list(item.frames)
    with av.open(str(bikes)) as container:
        theirs = [f for f in container.decode(video=0) if 3.0 <= f.time < 4.5]
    assert [frame.time for frame in ours] == [frame.time for frame in theirs] and ours
    difference = ours[0].image().astype(int) - theirs[0].to_ndarray(format="rgb24")
    assert np.abs(difference).mean() < 1.5


@pytest.mark.parametrize("most", [4.0, 1.0, 9.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_frame_has_the_text_of_the_nearest_narration(tmp_path, clip, seed, most):
    """The intervals said in another way: nearest in time, and within half of max_seconds."""
    rng = np.random.default_rng(seed)
    times = np.round(rng.uniform(0, 12, 7), 3)  # in no order
    said = [narration(t, f"#C C does thing {i}") for i, t in enumerate(times)]
    root = corpus(tmp_path, clip, ["v"], narration={"v": spoken(*said)})
    found = good(read(root, max_seconds=most))
    texts = {}
    for key, item in found.items():
        got = frames(item)
        assert not texts.keys() & {time for time, _ in got}
        texts |= dict(got)
        assert got[0][1].endswith(f" {int(key[-6:])}")  # the episode is named for its first
    for time in np.arange(60) / 5:
        distance = np.abs(times - time)
        if np.min(np.abs(distance - most / 2)) < 1e-3 or np.diff(np.sort(distance)[:2]) < 1e-3:
            continue  # on an edge
        near = int(np.argmin(distance))
        wanted = f"the camera wearer does thing {near}" if distance[near] < most / 2 else None
        assert next((v for t, v in texts.items() if abs(t - time) < 0.01), None) == wanted


def test_narrations_that_touch_are_one_episode_and_passes_are_apart(tmp_path, clip):
    said = spoken(*(narration(t, f"#C C {t}") for t in (0.5, 1.5, 3.0, 8.0)))
    said["narration_pass_2"] = {"narrations": [narration(1.0, "#C C rests")]}
    found = read(corpus(tmp_path, clip, ["v"], narration={"v": said}))
    assert found.keys() == {"v-pass1-000000", "v-pass1-000003", "v-pass2-000000"}
    run = frames(found["v-pass1-000000"])
    changes = dict.fromkeys(text for _, text in run)
    assert list(changes) == [f"the camera wearer {t}" for t in (0.5, 1.5, 3.0)]
    assert run[-1][0] == pytest.approx(4.8, abs=0.01)
    assert [t for t, _ in frames(found["v-pass2-000000"])] == pytest.approx(np.arange(15) / 5)


def test_a_narration_without_words_still_ends_the_one_before(tmp_path, clip):
    said = spoken(narration(2.0), narration(3.0, "#"), narration(4.0, "#C C sits"))
    found = read(corpus(tmp_path, clip, ["v"], narration={"v": said}))
    assert lost(found).keys() == {"v-pass1-000001"}
    assert found["v-pass1-000000"].source_range == "0.000-2.500 s"  # type: ignore[union-attr]
    assert found["v-pass1-000002"].source_range == "3.500-6.000 s"  # type: ignore[union-attr]


def test_three_narrations_at_one_moment_leave_the_middle_one_no_time(tmp_path, clip):
    found = read(corpus(tmp_path, clip, ["v"], narration={"v": spoken(*[narration(2.0)] * 3)}))
    assert found.keys() == {"v-pass1-000000", "v-pass1-000001"}
    assert "no time of its own" in lost(found)["v-pass1-000001"].reason
    assert len(frames(found["v-pass1-000000"])) == 20


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    images = [np.full((32, 32, 3), i % 250, np.uint8) for i in range(800)]
    video.write_video(str(path), images, 2.0, "libx264", gop=20)  # 400 s
    return path


@pytest.mark.parametrize("most", [4.0, 30.0, 200.0])
def test_workers_share_a_long_video_and_get_the_same_episodes(tmp_path, long_clip, most):
    rng = np.random.default_rng(0)
    passes = {
        f"narration_pass_{n}": {
            "narrations": [
                narration(round(t, 2), f"#C C does {t:.2f}") for t in rng.uniform(0, 400, 90)
            ]
        }
        for n in (1, 2)
    }
    actions = [action(t, t + 5) for t in range(3, 390, 40)]
    root = corpus(
        tmp_path,
        long_clip,
        ["v"],
        [
            described(
                "v", duration_sec=400.0, redacted_intervals=[{"start_sec": 100, "end_sec": 130}]
            )
        ],
        narration={"v": passes},
        fho_main=[fho("v", *actions)],
        goalstep_train=[{"video_uid": "v", "segments": [step(10, 350, "cook", step(50, 70))]}],
    )
    size = long_clip.stat().st_size
    whole = planned(root)
    assert len(whole) == 1
    shared = planned(root, size // 6)
    assert len(shared) > 4 and len({unit.id for unit in shared}) == len(shared)
    assert max(unit.cost for unit in shared) < 0.6 * size  # the target and a minute more
    assert abs(sum(unit.cost for unit in shared) - whole[0].cost) <= len(shared)
    assert sum(unit.episodes for unit in shared) == whole[0].episodes
    one = good(read(root, max_seconds=most))
    many = good(read(root, size // 6, max_seconds=most))
    assert one.keys() == many.keys()
    read_of = {key: frames(item) for key, item in one.items()}
    assert read_of == {key: frames(item) for key, item in many.items()}
    for key, item in one.items():
        low, high = map(float, item.source_range.removesuffix(" s").split("-"))
        assert 0 < high - low <= 64.001 and item.source_range == many[key].source_range
        assert not [time for time, _ in read_of[key] if 100 <= time <= 130]
    # a step of 340 s, in parts that together hold every frame that may be read
    parts = [key for key in one if key.startswith("v-goalstep-000000")]
    times = [time for key in parts for time, _ in read_of[key]]
    wanted = [t for t in np.arange(20, 700) / 2 if not 99.95 <= t < 130.05]
    assert sorted(times) == pytest.approx(wanted)


def test_only_what_is_annotated_of_an_hour_is_decoded(tmp_path, monkeypatch):
    """Ten actions of 2 s cost no more than their spans, a group of pictures each, and the frame
    after the end."""
    fps, gop = 2, 20
    path = tmp_path / "hour.mp4"
    still = [np.full((32, 32, 3), v, np.uint8) for v in (60, 61)]
    images = (still[i % 2] for i in range(3600 * fps))
    video.write_video(str(path), images, float(fps), "libx264", gop=gop)
    actions = [action(t, t + 2.0) for t in range(177, 3600, 360)]
    root = corpus(
        tmp_path, path, ["v"], [described("v", duration_sec=3600.0)], fho_main=[fho("v", *actions)]
    )
    assert len(actions) == 10
    decoded = collections.Counter()
    decode = av.Packet.decode

    class Counting:
        """A packet that counts what comes out of it."""

        def __init__(self, packet):
            self._packet = packet

        def __getattr__(self, name):
            return getattr(self._packet, name)

        def decode(self):
            found = decode(self._packet)
            decoded["frames"] += len(found)
            return found

    opened = av.open

    class Container:
        def __init__(self, container):
            self._container = container

        def __getattr__(self, name):
            return getattr(self._container, name)

        def __enter__(self):
            self._container.__enter__()
            return self

        def __exit__(self, *error):
            return self._container.__exit__(*error)

        def demux(self, *args):
            return map(Counting, self._container.demux(*args))

    monkeypatch.setattr(av, "open", lambda *args, **kwargs: Container(opened(*args, **kwargs)))
    units = planned(root, 1)
    assert len(units) == 10
    items = [item for unit in units for item in ego4d.episodes(unit)]
    assert decoded["frames"] == 0  # nothing before it is asked for
    assert [len(frames(item)) for item in items] == [2 * fps] * 10
    assert 10 * 2 * fps <= decoded["frames"] <= 10 * (2 * fps + gop + 1)
    assert sum(unit.cost for unit in units) == pytest.approx(
        path.stat().st_size * 20 / 3600, abs=10
    )


def cut_out(*spans):
    return [{"start_sec": a, "end_sec": b, "start_frame": 0, "end_frame": 0} for a, b in spans]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_redacted_is_never_read(tmp_path, clip, seed):
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.uniform(0, 12, 3))
    spans = [(float(a), float(a + rng.uniform(0, 2))) for a in starts]
    # the last as a part of the video that was taken out whole
    part = {"canonical_video_start_sec": spans[2][0], "canonical_video_end_sec": spans[2][1]}
    parts = [part | {"redacted": True}, {"redacted": False}]
    about = described("v", redacted_intervals=cut_out(*spans[:2]), video_components=parts)
    said = spoken(*(narration(t) for t in rng.uniform(0, 12, 8)))
    root = corpus(
        tmp_path,
        clip,
        ["v"],
        [about],
        narration={"v": said},
        fho_main=[fho("v", *(action(t, t + 3) for t in rng.uniform(0, 9, 4)))],
        goalstep_train=[{"video_uid": "v", "segments": [step(0.0, 12.0)]}],
    )
    found = read(root)
    assert not [error for error in lost(found).values() if error.counts]
    times = {key: [time for time, _ in frames(item)] for key, item in good(found).items()}
    assert not [t for ts in times.values() for t in ts for a, b in spans if a <= t <= b]
    # the step of 12 s holds all of the rest, but for the margin and pieces too short for a frame
    step_times = sorted(t for key, ts in times.items() if "goalstep" in key for t in ts)
    rest = [t for t in np.arange(60) / 5 if all(t < a - 0.3 or t > b + 0.3 for a, b in spans)]
    assert {round(t, 2) for t in rest} <= {round(t, 2) for t in step_times}


def test_an_action_is_cut_around_what_is_redacted_or_a_declared_loss(tmp_path, clip):
    about = described("v", redacted_intervals=cut_out((4, 6)))
    actions = [action(3, 8), action(4.5, 5.5), action(5, 7), action(3.9, 6.1)]
    found = read(corpus(tmp_path, clip, ["v"], [about], fho_main=[fho("v", *actions)]))
    ranges = {key: item.source_range for key, item in good(found).items()}
    assert ranges == {
        "v-fho-000000": "3.000-3.950 s",
        "v-fho-000000-1": "6.050-8.000 s",
        "v-fho-000002": "6.050-7.000 s",
    }
    assert lost(found).keys() == {"v-fho-000001", "v-fho-000003"}
    assert not any(error.counts for error in lost(found).values())


@pytest.mark.parametrize(
    "about",
    [
        None,
        {"redacted_intervals": "junk"},
        {"redacted_intervals": [None]},
        {"redacted_intervals": [{"start_sec": 1.0}]},
        {"redacted_intervals": [{"start_sec": 3.0, "end_sec": 2.0}]},
        {"redacted_intervals": [{"start_sec": float("nan"), "end_sec": 2.0}]},
        {"video_components": [{"redacted": True}]},
        {"video_components": {}},
    ],
)
def test_a_video_of_which_it_is_not_known_what_is_redacted_is_not_read(tmp_path, clip, about):
    metadata = [described("good"), *([] if about is None else [described("v", **about)])]
    both = [fho("good", action(1, 2)), fho("v", action(1, 2), action(3, 4))]
    found = read(corpus(tmp_path, clip, ["good", "v"], metadata, fho_main=both))
    assert found.keys() == {"good-fho-000000", "v"} and lost(found)["v"].counts
    assert len(frames(found["good-fho-000000"])) == 5


def test_actions_that_their_annotators_threw_out_are_declared_losses(tmp_path, clip):
    flags = [
        {"is_rejected": True, "reject_reason": None},
        {"is_rejected": True, "reject_reason": "blurred"},
        {"is_valid_action": False},
        {"is_invalid_annotation": True},
    ]
    kept = {"is_rejected": None, "is_valid_action": None, "is_invalid_annotation": None}
    entry = fho("v", *(action(1, 2, **f) for f in flags), action(1, 2, **kept), action(3, 4))
    hidden = fho("v", action(5, 6), redacted=True)
    found = read(corpus(tmp_path, clip, ["v"], fho_main=[entry, hidden]))
    assert good(found).keys() == {"v-fho-000004", "v-fho-000005"}
    assert lost(found).keys() == {f"v-fho-{i:06d}" for i in (0, 1, 2, 3, 6)}
    assert not any(error.counts for error in lost(found).values())


def test_goal_steps_and_their_parts_are_episodes_as_written(tmp_path, clip):
    steps = [step(0.5, 6.0, "  Pours the [hot] soup #1\n", step(1, 2, "sauté leek")), step(7, 9)]
    root = corpus(tmp_path, clip, ["v"], goalstep_valid=[{"video_uid": "v", "segments": steps}])
    found = good(read(root))
    texts = {key: {text for _, text in frames(item)} for key, item in found.items()}
    assert texts == {
        "v-goalstep-000000": {"Pours the [hot] soup #1"},
        "v-goalstep-000001": {"sauté leek"},
        "v-goalstep-000002": {"cut the leek"},
    }
    assert [unit.split for unit in planned(root)] == ["val"]


def test_the_real_test_steps_have_no_times(tmp_path, clip):
    real = json.loads(sample("ego4d/goalstep_test.json").read_text())
    uid = real["videos"][0]["video_uid"]
    narrated = {uid: spoken(narration(1.0))}
    found = read(corpus(tmp_path, clip, [uid], narration=narrated, goalstep_test=real))
    assert good(found).keys() == {f"{uid}-pass1-000000"}
    steps = sum(len(entry["step_segments"]) for entry in real["videos"])
    assert len(lost(found)) == steps == 5540
    assert not any(error.counts for error in lost(found).values())
    assert planned(tmp_path)[0].split == "test"


def test_a_missing_video_is_one_dead_letter(tmp_path, clip):
    said = {uid: spoken(narration(1.0), narration(9.0, "")) for uid in ("here", "gone")}
    both = [described("here"), described("gone")]
    actions = [fho("gone", action(1, 2))]
    found = read(corpus(tmp_path, clip, ["here"], both, narration=said, fho_main=actions))
    assert found.keys() == {"here-pass1-000000", "here-pass1-000001", "gone"}
    error = lost(found)["gone"]
    assert error.counts and error.stage == "read" and "full_scale/gone.mp4" in error.reason
    assert len(frames(found["here-pass1-000000"])) == 15


def test_what_is_past_the_end_costs_itself(tmp_path, clip):
    said = spoken(narration(10.0), narration(12.5), narration(13.5))
    actions = [action(11, 12.6), action(11, 13.5), action(12.5, 12.8), action(20, 21)]
    root = corpus(tmp_path, clip, ["v"], narration={"v": said}, fho_main=[fho("v", *actions)])
    found = read(root)
    assert lost(found).keys() == {"v-pass1-000002", *(f"v-fho-{i:06d}" for i in (1, 2, 3))}
    assert all(error.counts for error in lost(found).values())
    assert [len(frames(item)) for item in good(found).values()] == [20, 5]


def test_a_file_shorter_than_is_said_costs_what_it_lacks(tmp_path, clip):
    """ego4d.json gives no length, or a wrong one."""
    actions = [action(1, 2), action(11, 12), action(11, 15), action(20, 21)]
    for length in (None, "x", 3000.0):
        about = [described("v", duration_sec=length)]
        found = read(corpus(tmp_path, clip, ["v"], about, fho_main=[fho("v", *actions)]))
        assert [len(frames(found[f"v-fho-{i:06d}"])) for i in range(2)] == [5, 5]
        with pytest.raises(DataError, match=r"15\.000 s is past the end of the video"):
            frames(found["v-fho-000002"])
        with pytest.raises(DataError, match="no frame between 20 s and 21 s"):
            frames(found["v-fho-000003"])


def test_a_video_that_goes_or_breaks_after_the_plan_costs_itself(tmp_path, clip):
    entries = [fho(uid, action(1, 2)) for uid in ("a", "b", "c")]
    root = corpus(tmp_path, clip, ["a", "b", "c"], fho_main=entries)
    found = read(root)
    (root / "full_scale" / "a.mp4").unlink()
    (root / "full_scale" / "b.mp4").write_bytes(clip.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"a\.mp4 has gone"):
        frames(found["a-fho-000000"])
    with pytest.raises(DataError, match=r"b\.mp4"):
        frames(found["b-fho-000000"])
    assert len(frames(found["c-fho-000000"])) == 5


JUNK = [None, "", "1.0", True, [], {}, -1.0, float("nan"), float("inf"), 10**400, 1e9, [[[]]]]


@pytest.mark.parametrize("junk", JUNK, ids=[str(i) for i in range(len(JUNK))])
def test_junk_costs_itself_alone(tmp_path, clip, junk):
    said = {
        "v": spoken(narration(2.0), narration(junk), narration(5.0, [junk]), junk, narration(9.0)),
        "w": junk,
        "x": {"narration_pass_1": {"narrations": junk}, "narration_pass_2": junk},
    }
    actions = [action(junk, 2), action(1, junk), junk, action(1, 2, narration_text=junk)]
    steps = [step(junk, 1), junk, step(1, 2, junk), step(5, 6), step(3, 4) | {"segments": junk}]
    root = corpus(
        tmp_path,
        clip,
        ["v", "w", "x"],
        [described("v", duration_sec=12), junk, described("w"), described("x")],
        narration=said,
        fho_main=[
            fho("v", *actions, action(3, 4)),
            fho("w", action(1, 2)),
            {"video_uid": "w", "annotated_intervals": junk},
            {"video_uid": junk},
            junk,
            {"video_uid": "w", "annotated_intervals": [junk, {"narrated_actions": junk}]},
        ],
        goalstep_train=[
            {"video_uid": "v", "segments": steps},
            {"video_uid": "x", "segments": junk},
        ],
    )
    keys = []
    for unit in planned(root):
        for item in ego4d.episodes(unit):
            if isinstance(item, Episode):
                keys.append(item.id)
                assert frames(item)
            else:
                assert item.stage == "annotate" and "\n" not in item.reason
                assert len(item.reason) < 200
                item.key.encode()
    texts = {"v-fho-000003"} if isinstance(junk, str) and junk else set()
    described_steps = {"v-goalstep-000002"} if isinstance(junk, str) and junk else set()
    wanted = {"v-pass1-000000", "v-pass1-000004", "v-fho-000004", "w-fho-000000"}
    wanted |= {"v-goalstep-000003", "v-goalstep-000004"}
    assert set(keys) == wanted | texts | described_steps


def test_a_uid_is_never_a_path(tmp_path, clip):
    (tmp_path / "secret.mp4").write_bytes(clip.read_bytes())
    bad = ["../secret", str(tmp_path / "secret"), "..", "a/b", "", "\ud800", "a" * 100, "x.mp4"]
    root = corpus(
        tmp_path / "data",
        clip,
        ["v"],
        [described(uid) for uid in ["v", *bad]],
        narration={uid: spoken(narration(1.0)) for uid in ["v", *bad]},
        fho_main=[fho(uid, action(1, 2)) for uid in bad],
    )
    items = [item for unit in planned(root) for item in ego4d.episodes(unit)]
    assert [item.id for item in items if isinstance(item, Episode)] == ["v-pass1-000000"]
    errors = [item for item in items if isinstance(item, DataError)]
    assert len(errors) == len(bad)
    for error in errors:
        error.key.encode()
        assert error.counts and "not a plain name" in error.reason


def test_texts_can_be_planned_and_written(tmp_path, clip):
    """Lone surrogates and control characters, which JSON can carry, through a plan's own JSON."""
    said = spoken(narration(1.0, "#C C \ud800picks\x00\n a cup"), narration(2.0, "\ud800#"))
    steps = [step(1, 2, "stir\ud800\u200b  it")]
    root = corpus(
        tmp_path,
        clip,
        ["v"],
        narration={"v": said},
        goalstep_train=[{"video_uid": "v", "segments": steps}],
    )
    made = plan.make([("ego4d", str(root))], tiers=[Tier.parse("24x40:raw")], fps={})
    made.to_json().encode()
    texts = {key: frames(item)[0][1] for key, item in good(read(root)).items()}
    assert texts == {
        "v-pass1-000000": "the camera wearer \ufffdpicks a cup",
        "v-goalstep-000000": "stir\ufffd it",
    }


@pytest.mark.parametrize(
    "splits, steps, wanted",
    [
        (("train", None, None), None, "train"),
        ((None, "val", "train"), None, "val"),
        (("train", "test", "val"), None, "test"),
        (("train", None, None), "val", "val"),
        ((None, None, None), "train", "train"),
        (("multi", [], {}), None, None),
    ],
)
def test_a_video_has_one_split_and_what_the_owners_hold_out_is_held_out(
    tmp_path, clip, splits, steps, wanted
):
    stated = dict(zip(("split_em", "split_av", "split_fho"), splits, strict=True))
    files = {} if steps is None else {f"goalstep_{steps}": [{"video_uid": "v", "segments": []}]}
    said = {"v": spoken(*(narration(t) for t in (1, 9)))}
    root = corpus(tmp_path, clip, ["v"], [described("v", **stated)], narration=said, **files)
    assert {unit.split for unit in planned(root)} == {wanted or split_of("ego4d", "v")}


def test_videos_without_a_split_are_drawn_whole(tmp_path, clip):
    names = [f"v{i}" for i in range(300)]
    said = {uid: spoken(narration(1.0), narration(9.0)) for uid in names}
    root = corpus(tmp_path, clip, ["v0"], [described(uid) for uid in names], narration=said)
    for uid in names:
        (root / "full_scale" / f"{uid}.mp4").touch()
    drawn = {unit.params["uid"]: unit.split for unit in planned(root)}
    assert drawn == {uid: split_of("ego4d", uid) for uid in names}
    assert set(drawn.values()) == {"train", "val"}


def test_the_owners_layouts_are_read(tmp_path, clip):
    """One of several releases side by side; narrations wrapped as in the owners' later files."""
    for folder in ("v1/full_scale", "v2/full_scale", "v1/annotations", "v2_1/annotations"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in ("v1", "v2"):
        (tmp_path / folder / "full_scale" / "v.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "v2" / "ego4d.json").write_text(json.dumps({"videos": [described("v")]}))
    old = {"videos": {"v": spoken(narration(1.0))}, "version": "v1"}
    (tmp_path / "v1/annotations/narration.json").write_text(json.dumps(old))
    new = {"videos": [{"video_uid": "v", "segments": [step(1, 2)]}]}
    for name in ("val", "valid"):  # the same file under both names
        (tmp_path / f"v2_1/annotations/goalstep_{name}.json").write_text(json.dumps(new))
    assert good(read(tmp_path)).keys() == {"v-pass1-000000", "v-goalstep-000000"}
    (unit,) = planned(tmp_path)
    assert unit.uri == str(tmp_path / "v2" / "full_scale" / "v.mp4")


def test_units_do_not_depend_on_the_place_nor_open_a_video(fake, tmp_path, monkeypatch):
    def opened(*_, **__):
        raise AssertionError("units opened a video")

    monkeypatch.setattr(av, "open", opened)
    moved = tmp_path / "elsewhere"
    fake.rename(moved)
    there = list(ego4d.units(str(moved)))
    moved.rename(fake)
    for a, b in zip(ego4d.units(str(fake)), there, strict=True):
        assert dataclasses.replace(a, uri="") == dataclasses.replace(b, uri="")
        assert plan.relative_uri(a.uri, str(fake)) == plan.relative_uri(b.uri, str(moved))
        assert str(fake) not in json.dumps([a.id, a.params])


def test_what_the_user_gets_wrong_is_said(tmp_path, clip):
    with pytest.raises(UsageError, match=r"none of narration\.json, .*`unisim sources ego4d`"):
        list(ego4d.units(str(tmp_path / "nowhere")))
    root = corpus(tmp_path, clip, ["v"], narration={"v": spoken(narration(1.0))})
    about = (root / "ego4d.json").read_bytes()
    (root / "ego4d.json").unlink()
    with pytest.raises(UsageError, match=r"no ego4d\.json .*redacted"):
        list(ego4d.units(str(root)))
    (root / "ego4d.json").write_bytes(about)
    (root / "full_scale" / "v.mp4").rename(root / "v.mp4")
    with pytest.raises(UsageError, match=r"annotations but no videos.*full_scale"):
        list(ego4d.units(str(root)))
    (root / "v.mp4").rename(root / "full_scale" / "v.mp4")
    assert len(list(ego4d.units(str(root)))) == 1
    for name in ("ego4d.json", "annotations/narration.json"):
        kept = (root / name).read_bytes()
        for content in (b"[{", b"\xff\xfe\x00", b"[" * 200_000, b'{"a": 1' + b"0" * 9000, b"[]"):
            (root / name).write_bytes(content)
            with pytest.raises(UsageError) as e:
                list(ego4d.units(str(root)))
            assert str(root / name) in str(e.value) and "\n" not in str(e.value)
        (root / name).write_bytes(kept)
    (root / "annotations" / "fho_main.json").write_text('{"videos": {}}')
    with pytest.raises(UsageError, match="no list of videos"):
        list(ego4d.units(str(root)))


@pytest.mark.parametrize(
    "narration, wanted",
    [
        ("#C C picks a bag of clothes from the floor", "{} picks a bag of clothes from the floor"),
        ("#c c walks around", "{} walks around"),
        ("# c c walks around", "{} walks around"),
        ("#CC picks", "{} picks"),
        ("#C looks around", "{} looks around"),
        ("#CCtalks to #OO", "{} talks to another person"),
        ("#OOpoints at the park", "another person points at the park"),
        ("#C C's hand moves", "{}'s hand moves"),
        # the tag says whose view it is, the subject is another
        ("#C A motorcycle rides past C.", "A motorcycle rides past {}."),
        ("#C a car drives past C.", "a car drives past {}."),
        ("#O A car drives past the car C is in.", "A car drives past the car {} is in."),
        ("#O person X looks at C", "person X looks at {}"),
        ("#O The man X turns on the car's wiper", "The man X turns on the car's wiper"),
        ("#C C picks #unsure.", "{} picks something."),
        ("#C C picks #Unsure", "{} picks something"),
        ("#C C takes #unsurefrom the box", "{} takes something from the box"),
        ("#unsured", "something"),
        ("#C C puts #unknown down", "{} puts something down"),
    ],
)  # fmt: skip
def test_narrations_as_they_were_written(narration, wanted):
    assert ego4d_text(narration) == wanted.format("the camera wearer")


PARTS = "#C #c #O #OO #CC #unsure #Unsure #summary # C c O man X a the [ ] : . 's \u200b".split(" ")
tagged = st.tuples(
    st.sampled_from(["", " "]), st.lists(st.sampled_from(PARTS) | st.text(max_size=5))
).map(lambda drawn: drawn[0].join(drawn[1]))


@given(tagged)
def test_a_narration_has_no_tag_and_no_bracket_and_is_never_empty(narration):
    try:
        text = ego4d_text(narration)
    except DataError as e:
        assert e.stage == "annotate"
        return
    assert text == clean_text(text) and any(c.isalnum() or c == "_" for c in text)
    assert not set("#[]") & set(text)
