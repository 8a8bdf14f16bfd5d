"""LeRobotDataset v3.0 and v2.1 against pyarrow, json, Pillow and PyAV."""

import io
import json
import shutil
import subprocess
import sys

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.sources import lerobot
from schemas import DataError, UsageError
from tests.command import files_of, unisim
from tests.pipelines.lerobot_corpus import (
    FAKES,
    FRONT,
    LISTING,
    SLOT_NAMES,
    WRIST,
    decoded,
    edit,
    names,
    read,
    rewrite,
)


@pytest.fixture
def v3(tmp_path):
    return lerobot.fake(tmp_path, 3, traps=False)


@pytest.fixture
def v21(tmp_path):
    return lerobot.fake_v21(tmp_path, 3, traps=False)


def wanted_controls(rows: list[dict]) -> np.ndarray:
    """The action before each row in radians and openings, first the state: by hand."""
    sent = np.array([rows[0]["observation.state"], *(row["action"] for row in rows[:-1])])
    return np.column_stack([np.deg2rad(sent[:, :5]), sent[:, 5] / 100])


def check(found: list, rows: list[dict], images: list[np.ndarray], tasks: list[str]) -> None:
    assert len(found) == len(rows) == len(images)
    slots = [SLOT_NAMES.index(f"joint_{i}") for i in range(1, 6)] + [SLOT_NAMES.index("gripper")]
    controls = np.stack([step.control for step, _ in found])
    np.testing.assert_allclose(controls[:, slots], wanted_controls(rows), atol=1e-6)
    assert not np.delete(controls, slots, 1).any()
    np.testing.assert_allclose([step.time for step, _ in found], np.arange(len(rows)) / 10)
    texts = [tasks[row["task_index"]] for row in (rows[0], *rows[:-1])]
    assert [step.text for step, _ in found] == texts
    for (_, pixels), image in zip(found, images, strict=True):
        assert np.abs(pixels.astype(int) - image).mean() < 2


def test_v3_is_what_pyarrow_and_pyav_read(v3):
    good, lost = read(v3)
    assert not lost and set(good) == names(*range(5))
    rows = [r for p in sorted(v3.glob("data/*/*.parquet")) for r in pq.read_table(p).to_pylist()]
    tasks = pq.read_table(v3 / "meta" / "tasks.parquet").to_pylist()
    texts = [row["__index_level_0__"] for row in tasks]
    for view, key in (("front", FRONT), ("wrist", WRIST)):
        files = sorted(v3.glob(f"videos/{key}/*/*.mp4"))
        assert len(files) == 2
        images = [image for file in files for image in decoded(file)]
        assert len(images) == len(rows)
        for number in range(5):
            of = [i for i, row in enumerate(rows) if row["episode_index"] == number]
            found = good[f"{number:06d}@{view}"]
            check(found, [rows[i] for i in of], [images[i] for i in of], texts)


def test_v21_is_what_json_pyarrow_and_pyav_read(v21):
    good, lost = read(v21)
    assert not lost and set(good) == names(*range(4))
    tasks = [json.loads(x)["task"] for x in (v21 / "meta/tasks.jsonl").read_text().splitlines()]
    for number in range(4):
        name = f"episode_{number:06d}"
        rows = pq.read_table(v21 / f"data/chunk-000/{name}.parquet").to_pylist()
        film = decoded(v21 / f"videos/chunk-000/{FRONT}/{name}.mp4")
        stored = [np.asarray(Image.open(io.BytesIO(row[WRIST]["bytes"]))) for row in rows]
        check(good[f"{number:06d}@front"], rows, film, tasks)
        check(good[f"{number:06d}@wrist"], rows, stored, tasks)


def test_plan_prepare_audit_of_v21(tmp_path):
    """`test_sources.py` does so with v3.0."""
    path = lerobot.fake_v21(tmp_path, 0)
    tables = []
    for i in range(2):
        out = tmp_path / str(i)
        flags = ["--source", f"lerobot={path}", "--out", out, "--error-budget", "1"]
        unisim("plan", *flags[:4])
        unisim("prepare", *flags)
        assert "0 violations" in unisim("audit", out).stdout
        tables.append(files_of(out))
    assert tables[0] == tables[1]
    index = pq.read_table(tmp_path / "0" / "index.parquet").to_pylist()
    splits = {row["episode_id"][:6]: row["split"] for row in index}
    assert [splits[f"{i:06d}"] for i in range(4)] == ["train", "train", "train", "val"]


def test_traps_cost_what_they_are_in(tmp_path):
    good, lost = read(lerobot.fake(tmp_path / "3", 0))
    assert set(good) == names(0, 1, 2, 3, 4) | {"000006@wrist"}
    assert set(lost) == names(5) | {"000006@front", "000007"}
    assert "not 6 finite numbers" in lost["000005@front"]
    assert "no frame between" in lost["000006@front"]
    assert "wanted" in lost["000007"]
    good, lost = read(lerobot.fake_v21(tmp_path / "2", 0))
    assert set(good) == names(0, 1, 2, 3) | {"000004@wrist", "000005@front"}
    assert set(lost) == {"episodes.jsonl-3", "000004@front", "000005@wrist"}
    assert "missing" in lost["000004@front"]


@pytest.mark.parametrize("version", FAKES)
def test_units_are_cut_by_bytes_and_split_and_read_the_same(version, tmp_path):
    path = FAKES[version](tmp_path, 2, traps=False)
    whole, parts = (list(lerobot.units(str(path), size)) for size in (10**9, 1))
    assert [unit.split for unit in whole] == ["train", "val"] + [None] * (version == "v3.0")
    assert len(parts) == (5 if version == "v3.0" else 4)
    assert all(unit.cost > 0 and unit.frames > 0 for unit in parts)
    size = sum(
        p.stat().st_size for x in ("data", "videos") for p in (path / x).rglob("*.[mp][pa]*")
    )
    assert abs(sum(unit.cost for unit in parts) - size) <= len(parts)
    assert {unit.version for unit in parts} == {f"{version[1:]}.0"}
    one, two = read(path, 10**9)[0], read(path, 1)[0]
    assert list(one) == list(two)
    for name, steps in one.items():
        assert all((a[1] == b[1]).all() for a, b in zip(steps, two[name], strict=True))


def test_the_card_gives_the_licence_and_its_absence_nothing(v3):
    def licenses() -> set[str]:
        items = [e for unit in lerobot.units(str(v3)) for e in lerobot.episodes(unit)]
        return {e.license for e in items if not isinstance(e, DataError)}

    assert licenses() == {"apache-2.0"}
    (v3 / "README.md").write_text("---\ntags: [x]\nlicense:\n- mit\n---\nlicense: other\n")
    assert licenses() == {"mit"}
    for text in ("license: mit\n", "---\nno end\nlicense: mit\n", "---\nlicense: <script>\n---\n"):
        (v3 / "README.md").write_text(text)
        assert licenses() == {""}
    (v3 / "README.md").unlink()
    assert licenses() == {""}


def test_one_row_group_for_many_episodes_reads_the_same(v3):
    before = read(v3)[0]
    for path in v3.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(path), path)
        assert pq.ParquetFile(path).metadata.num_row_groups == 1
    after, lost = read(v3)
    assert not lost
    for name, steps in before.items():
        pairs = zip(steps, after[name], strict=True)
        assert all((a.control == b.control).all() and a.text == b.text for (a, _), (b, _) in pairs)


def test_images_of_many_episodes_in_one_parquet(v3):
    """v3.0 without videos: rows of the right episode's images, over row groups and batches."""
    rng = np.random.default_rng(0)
    pixels = {}

    def image(row: dict, key: str) -> dict:
        array = rng.integers(0, 256, (8, 10, 3), np.uint8)
        pixels[row["episode_index"], key, row["frame_index"]] = array
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": "frame.png"}

    for path in sorted(v3.glob("data/*/*.parquet")):
        rows = pq.read_table(path).to_pylist()
        for row in rows:
            row |= {key: image(row, key) for key in (FRONT, WRIST)}
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=20)
    shutil.rmtree(v3 / "videos")

    def images(info: dict) -> None:
        info["video_path"] = None
        for key in (FRONT, WRIST):
            info["features"][key]["dtype"] = "image"

    edit(v3 / "meta/info.json", images)
    rewrite(
        v3 / LISTING, lambda rows: [{k: v for k, v in r.items() if "video" not in k} for r in rows]
    )
    good, lost = read(v3)
    assert not lost and set(good) == names(*range(5))
    for name, steps in good.items():
        key = f"observation.images.{name[7:]}"
        for i, (_, found) in enumerate(steps):
            assert (found == pixels[int(name[:6]), key, i]).all()


# in a process of its own: run by root, the encoder gives its thread a real-time priority for good
WRITE_AV1 = """
import sys
import av
import numpy as np
with av.open(sys.argv[1], "w") as container:
    stream = container.add_stream("libsvtav1", rate=10, options={"crf": "20", "g": "2"})
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    for i in range(int(sys.argv[2])):
        array = np.full((64, 64, 3), 20 + 5 * i, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
    container.mux(stream.encode())
"""


def test_av1_in_mp4_and_a_span_in_its_middle(v3):
    """The codec that LeRobot itself writes; frames are told apart by their grey."""
    target = next(v3.glob(f"videos/{FRONT}/*/file-001.mp4"))
    frames = len(decoded(target))
    subprocess.run([sys.executable, "-c", WRITE_AV1, str(target), str(frames)], check=True)
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.name in ("libdav1d", "av1", "libaom-av1")
    good, lost = read(v3)
    assert not lost
    n = 0
    for number in (2, 3, 4):
        steps = good[f"{number:06d}@front"]
        greys = [pixels.mean() for _, pixels in steps]
        np.testing.assert_allclose(greys, 20 + 5 * np.arange(n, n + len(steps)), atol=2)
        n += len(steps)
    assert n == frames


def test_a_folder_of_datasets(tmp_path):
    for name in ("a", "b"):
        lerobot.fake(tmp_path, 1, traps=False).rename(tmp_path / name)
    good, lost = read(tmp_path)
    assert not lost and len(good) == 20
    assert set(good) == {f"{name}-{x}" for name in "ab" for x in names(*range(5))}
    (tmp_path / "b").rename(tmp_path / "b@c")
    with pytest.raises(UsageError, match="rename"):
        read(tmp_path)


def test_depth_maps_are_no_view(v3):
    def change(info: dict) -> None:
        info["features"][WRIST]["info"] = {"video.is_depth_map": True}

    edit(v3 / "meta/info.json", change)
    assert {name[7:] for name in read(v3)[0]} == {"front"}


def test_splits_of_other_names_are_drawn(v3):
    splits = {"train": "0:4", "test": "3:4", "validation": "4:5", "debug": "0:9"}
    edit(v3 / "meta/info.json", lambda info: info.update(splits=splits))
    units = lerobot.units(str(v3), 1)
    assert [unit.split for unit in units] == ["train"] * 3 + ["test", "val"]
