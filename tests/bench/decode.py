"""The rows of `make bench` on films: decoding, resampling, resizing and encoding, on one core."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines import plan, prepare
from pipelines.ops import video
from pipelines.ops.images import encode_jpeg, resize, shrink_to
from pipelines.write import write_shard
from schemas import Tier
from tests.bench import clips
from tests.bench.timing import Row, interleaved, progress

ROUNDS = 5
FINE, BASE = Tier(192, 320, "jpeg"), Tier(24, 40, "raw")
FPS = 8.0
FFMPEG = "/usr/bin/ffmpeg"
SPANS, SPAN = 10, 2.0  # of the hour; seconds
PRIME = 347.3  # seconds from one span's beginning to the next


def rows(folder: Path) -> Iterator[Row]:
    """The rows of one film and of an hour-long one, which are made here."""
    hour = folder / "hour.mp4"
    progress(f"encoding {clips.SECONDS} s of 720p and an hour of 180p")
    film = clips.film(folder)
    clips.write_hour(hour)
    yield from _film_rows(folder, film)
    yield _span_row(hour)


def seconds_of(work: Callable[[], object]) -> float:
    """Of the core, the processes that the work starts and ends included."""
    begin = _used()
    work()
    return _used() - begin


def ratio_of(ours: float, peer: float, goal: float) -> str:
    """The peer's seconds by ours, and the goal where they fall short of it."""
    ratio = peer / ours
    return f"{ratio:.2f}" if ratio >= goal else f"{ratio:.2f} < {goal:g}"


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _film_rows(folder: Path, film: Path) -> Iterator[Row]:
    corpus = clips.write_clips(folder / "clips", film, 1)
    name = f"{clips.SECONDS} s of 720p H.264 -> 8 fps, two tiers"
    if not Path(FFMPEG).exists():
        yield Row(name, "ffmpeg", "", "", "", f"no {FFMPEG}")
        return
    sizes: dict[str, int] = {}
    sides = {
        "ops": lambda: seconds_of(lambda: sizes.update(ours=_frames(film))),
        "shard": lambda: seconds_of(lambda: write_table(folder, corpus)),
        "peer": lambda: seconds_of(lambda: sizes.update(peer=_ffmpeg(folder, film))),
    }
    taken = interleaved(ROUNDS, sides)
    for label, side in ((name, "ops"), ("  the same, as a shard of a table", "shard")):
        yield Row(
            label,
            "ffmpeg",
            f"{taken[side]:.2f} s",
            f"{taken['peer']:.2f} s",
            ratio_of(taken[side], taken["peer"], 0.9),
            f"{sizes['ours'] / 1e3:.0f} kB",
            f"{sizes['peer'] / 1e3:.0f} kB",
        )


def _frames(film: Path) -> int:
    """What a shard does to the film's frames, without records; bytes of all JPEGs."""
    shrink = shrink_to([(tier.height, tier.width) for tier in (FINE, BASE)], "crop")
    total, last = 0, -1
    for frame in video.frames(film):
        if int(frame.time * FPS + 1e-3) == last:
            continue
        last = int(frame.time * FPS + 1e-3)
        image = frame.image.shrunk(shrink)
        total += len(encode_jpeg(resize(image, FINE.height, FINE.width, "crop")))
        resize(image, BASE.height, BASE.width, "crop")
    return total


def write_table(folder: Path, corpus: Path, source: str = "something_something_v2") -> None:
    """Plans a table of one shard in a folder of its own, and writes its shard."""
    out = folder / "table"
    shutil.rmtree(out, ignore_errors=True)
    made = plan.make(
        [(source, str(corpus))],
        tiers=[FINE, BASE],
        fps={} if source == "bridge" else {source: FPS},
        options={},
        prefix_dataset=False,
        shard_mb=1e6,
    )
    plan.save(made, str(out))
    (task,) = prepare.tasks(made, str(out))
    receipt = write_shard(task)
    assert receipt.episodes and not receipt.dead_letters, receipt.dead_letters


def _ffmpeg(folder: Path, film: Path) -> int:
    """The same by the command; bytes of all JPEGs."""
    out = folder / "ffmpeg"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    sizes = {"a": (FINE, "[c]"), "b": (BASE, ",format=rgb24[d]")}
    scaled = ";".join(
        f"[{name}]scale={tier.width}:{tier.height}:flags=area{end}"
        for name, (tier, end) in sizes.items()
    )
    command = [FFMPEG, "-v", "error", "-threads", "1", "-filter_complex_threads", "1"]
    command += ["-i", str(film), "-filter_complex", f"[0:v]fps={FPS:g},split[a][b];{scaled}"]
    command += ["-map", "[c]", "-threads", "1", "-q:v", "2", str(out / "%04d.jpg")]
    command += ["-map", "[d]", "-threads", "1", "-f", "rawvideo", str(out / "base.raw")]
    subprocess.run(command, check=True)
    return sum(path.stat().st_size for path in out.glob("*.jpg"))


def _span_row(hour: Path) -> Row:
    starts = [PRIME * i + 100 for i in range(SPANS)]

    def spans() -> None:
        for start in starts:
            found = list(video.frames(hour, start, start + SPAN))
            assert len(found) == SPAN * clips.SLOW, (start, len(found))

    def whole() -> None:
        count = sum(1 for _ in video.frames(hour))
        assert count == clips.HOUR * clips.SLOW, count

    sides = {"ours": lambda: seconds_of(spans), "peer": lambda: seconds_of(whole)}
    taken = interleaved(ROUNDS, sides)
    ours, peer = taken["ours"], taken["peer"]
    name = f"{SPANS} spans of {SPAN:g} s out of an hour"
    return Row(name, "all of it", f"{ours:.3f} s", f"{peer:.2f} s", ratio_of(ours, peer, 20))
