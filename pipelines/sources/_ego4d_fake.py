"""A tiny Ego4D in the owners' form."""

from __future__ import annotations

import json
import uuid
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream

from pipelines.ops import video


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """Three videos of 12 s at 5 fps, H.264 and VP9 in MP4; a square that moves as narrated.

    With traps, one stream starts after 2 s, part of a video is redacted (its frames are black),
    one is cut short, one missing and one only narrated as redacted; narrations are out of order,
    empty, tagged, past the end; actions rejected or without a text; steps in groups and untimed.
    """
    path = root / "ego4d"
    rng = np.random.default_rng(seed)
    uids = [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(6 if traps else 3)]
    (path / "v2" / "full_scale").mkdir(parents=True, exist_ok=True)
    (path / "v2" / "annotations").mkdir(exist_ok=True)
    starts = {2: 2.0} if traps else {}
    for i, uid in enumerate(uids[:4]):
        images = _fake_images(rng, black=range(20, 30) if traps and i == 0 else range(0))
        _fake_video(path / "v2" / "full_scale" / f"{uid}.mp4", images, i == 1, starts.get(i, 0.0))
    if traps:
        cut = path / "v2" / "full_scale" / f"{uids[3]}.mp4"
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    described = [
        {
            "video_uid": uid,
            "duration_sec": 12.0,
            "video_metadata": {"fps": 5.0, "video_start_sec": starts.get(i, 0.0)},
            "split_em": None,
            "split_av": None,
            "split_fho": ("train", "val", None)[i % 3],
            "redacted_intervals": [{"start_sec": 4.0, "end_sec": 6.0}] if traps and i == 0 else [],
            "video_components": [],
        }
        for i, uid in enumerate(uids)
    ]
    (path / "ego4d.json").write_text(json.dumps({"version": "v2", "videos": described}))
    for name, value in _fake_annotations(uids, starts, traps).items():
        (path / "v2" / "annotations" / name).write_text(json.dumps(value))
    return path


def _fake_annotations(
    uids: list[str], starts: dict[int, float], traps: bool
) -> dict[str, dict[str, Any]]:
    texts = ["#C C moves the square", "#O A man X looks at C", "#C C picks a #unsure"]
    spoken = {}
    for i, uid in enumerate(uids):
        times = [starts.get(i, 0.0) + t for t in (0.6, 2.1, 3.4, 7.5, 8.2, 11.0)]
        points = [_fake_narration(t, texts[k % 3]) for k, t in enumerate(times)]
        second = [_fake_narration(times[3], "#C C turns"), _fake_narration(times[0], "#C C rests")]
        passes = {1: points} if i % 2 else {1: points, 2: second[:: 1 if traps else -1]}
        spoken[uid] = {
            f"narration_pass_{n}": {"narrations": said, "summaries": []}
            for n, said in passes.items()
        } | {"status": "complete"}
    actions = [_fake_action(1.0, 3.0), _fake_action(7.0, 9.0, is_rejected=None)]
    steps = [
        {"start_time": 0.0, "end_time": 8.0, "step_description": "Makes room.", "segments": [
            {"start_time": 2.0, "end_time": 5.0, "step_description": "push the square"}]},
    ]  # fmt: skip
    result: dict[str, dict[str, Any]] = {"narration.json": spoken}
    if traps:
        said = spoken[uids[1]]["narration_pass_1"]["narrations"]
        said += [_fake_narration(t, text) for t, text in ((9.5, ""), (99.0, "#C C leaves"))]
        said += [_fake_narration(10.0, "#Summary C moved a square about.")]
        spoken[uids[5]] = {"status": "redacted"}
        actions += [
            _fake_action(4.2, 5.8),
            _fake_action(5.0, 7.0, is_rejected=True, reject_reason="no hands"),
            _fake_action(5.0, 7.0, is_valid_action=False),
            _fake_action(5.0, 7.0, narration_text=None),
            _fake_action(8.0, 8.0),
        ]
        untimed = {"video_uid": uids[2], "step_segments": [{"step_description": "rest"}]}
        result["goalstep_test.json"] = {"split": "test", "videos": [untimed]}
    intervals = [{"redacted": False, "narrated_actions": actions}]
    groups = [{"video_uid": f"grp-{uids[0]}", "segments": steps}] if traps else []
    result["fho_main.json"] = {"videos": [{"video_uid": uids[0], "annotated_intervals": intervals}]}
    result["goalstep_train.json"] = {"videos": [{"video_uid": uids[0], "segments": steps}, *groups]}
    result["goalstep_val.json"] = {"videos": [{"video_uid": uids[1], "segments": steps}]}
    return result


def _fake_narration(time: float, text: str) -> dict[str, Any]:
    return {"timestamp_sec": time, "timestamp_frame": int(5 * time), "narration_text": text}


def _fake_action(start: float, end: float, **changes: Any) -> dict[str, Any]:
    action = {"start_sec": start, "end_sec": end, "narration_text": "#C C pushes the square"}
    flags = {"is_valid_action": True, "is_rejected": False, "is_invalid_annotation": False}
    return action | flags | {"reject_reason": None, "structured_verb": None} | changes


def _fake_images(rng: np.random.Generator, black: range) -> list[np.ndarray]:
    images = np.full((60, 48, 64, 3), rng.integers(60, 120, 3), np.uint8)
    where = 24 + np.cumsum(rng.integers(-3, 4, (60, 2)), 0)
    for image, (y, x) in zip(images, np.clip(where, 0, 32), strict=True):
        image[y : y + 16, x : x + 16] = (220, 180, 40)
    images[list(black)] = 0
    return list(images)


def _fake_video(path: Path, images: list[np.ndarray], vp9: bool, start: float) -> None:
    """H.264, or VP9 as the owners' own encodes are: in MP4, which `write_video` has no name for."""
    if not vp9:
        video.write_video(str(path), images, 5.0, "libx264", start=start)
        return
    webm = path.with_suffix(".webm")
    video.write_video(str(webm), images, 5.0, start=start)
    options = {"fflags": "+bitexact"}
    with av.open(str(webm)) as source, av.open(str(path), "w", format="mp4", options=options) as to:
        stream = to.add_stream_from_template(source.streams.video[0])
        assert isinstance(stream, VideoStream)
        stream.time_base = Fraction(1, 90000)
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                to.mux(packet)
    webm.unlink()
