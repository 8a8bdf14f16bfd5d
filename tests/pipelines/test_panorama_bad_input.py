"""What is wrong in Matterport3D or a folder of panoramas costs what shows it, and nothing else."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines import sources
from pipelines.ops.images import encode_jpeg
from schemas import DataError, UsageError

HOUSE, OTHER = "aB3dE5fG7hJ", "kL2mN4pQ6rS"  # three panoramas with depth, two without
SMALL = {"height": 12, "width": 20}

Read = tuple[dict[str, tuple[str, str]], dict[str, DataError]]


def read(path: Path, name: str) -> Read:
    """Passport and digest of every episode by id, its frames decoded as `pipelines.rows` does;
    and the losses by what they cost."""
    source, good, lost = sources.get(name), {}, {}
    for unit in source.units(str(path)):
        try:
            for item in source.episodes(dataclasses.replace(unit, options=SMALL)):
                if isinstance(item, DataError):
                    assert item.key not in lost
                    lost[item.key] = item
                    continue
                try:
                    state = hashlib.blake2b()
                    for frame in item.frames:
                        state.update(repr((frame.control, frame.text, frame.overlap)).encode())
                        state.update(frame.image().tobytes())
                    good[item.id] = item.source_range, state.hexdigest()
                except DataError as e:
                    lost[item.id] = e
        except DataError as e:
            lost[e.key] = e
    assert all("\n" not in e.reason and len(e.reason) < 300 for e in lost.values())
    return good, lost


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> dict[str, tuple[Path, Read]]:
    found = {}
    for name in ("matterport3d", "panorama"):
        path = sources.get(name).fake(tmp_path_factory.mktemp("clean"), 3, traps=False)
        found[name] = path, read(path, name)
        assert not found[name][1][1]
    return found


@pytest.fixture
def copy(clean, tmp_path) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        return Path(shutil.copytree(clean[name][0], tmp_path / name))

    return make


def panos(path: Path) -> list[str]:
    """Those of the house: along a line, each one reaching those beside it."""
    return [entry["image_id"] for entry in json.loads(graph(path).read_text())]


def graph(path: Path, scan: str = HOUSE) -> Path:
    return path / f"connectivity/{scan}_connectivity.json"


def conf(path: Path) -> Path:
    return path / HOUSE / f"undistorted_camera_parameters/{HOUSE}.conf"


def face(path: Path, pano: str, number: int) -> Path:
    return path / HOUSE / "matterport_skybox_images" / f"{pano}_skybox{number}_sami.jpg"


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def moves_at(name: str, passport: str, pano: str) -> bool:
    """Whether an episode goes to or from a panorama."""
    return pano in passport and not re.search(r"\.(look|steps)\.", name)


def check_rest(before: Read, after: Read, costs: Callable[[str, str], bool]) -> None:
    """Exactly the episodes that `costs` tells by id and passport are gone, the rest is the same."""
    kept = {name: row for name, row in before[0].items() if not costs(name, row[0])}
    assert after[0] == kept
    assert kept


def test_a_missing_face(clean, copy):
    path = copy("matterport3d")
    pano = panos(path)[1]
    face(path, pano, 3).unlink()
    good, lost = read(path, "matterport3d")
    check_rest(clean["matterport3d"][1], (good, lost), lambda _, passport: pano in passport)
    error = lost.pop(f"{HOUSE}.{pano}")
    assert error.reason == f"panorama {pano} of {HOUSE}: no skybox face 3" and error.counts
    # what would have gone there says so, and is no loss of its own
    assert lost and all(pano in e.reason and not e.counts for e in lost.values())
    assert all(re.search(rf"\.go\..*\.{pano}|\.route\.", key) for key in lost)


def test_a_face_of_another_size(clean, copy):
    path = copy("matterport3d")
    pano = panos(path)[2]
    face(path, pano, 0).write_bytes(encode_jpeg(np.full((32, 32, 3), 90, np.uint8)))
    good, lost = read(path, "matterport3d")
    before = clean["matterport3d"][1]
    check_rest(before, (good, lost), lambda _, passport: pano in passport)
    assert lost.keys() == before[0].keys() - good.keys()
    said = f"panorama {pano} of {HOUSE}: faces of 32x32, 64x64, wanted one square size"
    assert {e.reason for e in lost.values()} == {said}


@pytest.mark.parametrize("line", ["exposure 12", "\x00\xff", "scan a.png b.jpg 1 0 0", "x" * 5000])
def test_an_unknown_line_of_a_conf(clean, copy, line):
    path = copy("matterport3d")
    number = 1 + len(conf(path).read_text().splitlines())
    conf(path).write_bytes(conf(path).read_bytes() + line.encode("latin-1") + b"\n")
    good, lost = read(path, "matterport3d")
    assert good == clean["matterport3d"][1][0]
    (error,) = lost.values()
    assert error.key == HOUSE and error.uri == str(conf(path)) and error.where == f"line {number}"


def test_a_pose_of_a_conf_that_is_not_rigid(clean, copy):
    path = copy("matterport3d")
    pano = panos(path)[0]
    lines = conf(path).read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if f"{pano}_i1_5" in line)
    lines[number] = lines[number].replace(" 0 0 0 1", " 0 0 0 2")
    conf(path).write_text("\n".join(lines) + "\n")
    good, lost = read(path, "matterport3d")
    (error,) = lost.values()
    assert error.key == f"{HOUSE}.{pano}" and "not rigid" in error.reason
    assert error.reason.startswith(f"line {number + 1}: ")
    before = clean["matterport3d"][1][0]
    for name, row in before.items():
        if not moves_at(name, row[0], pano):  # those were measured without this photograph
            assert good[name] == row


MIRRORED = np.diag([1.0, -1, 1, 1])


def test_a_pose_of_a_connectivity_that_is_not_rigid(clean, copy):
    path = copy("matterport3d")
    pano = panos(path)[2]
    edit(graph(path), lambda entries: entries[2].update(pose=MIRRORED.ravel().tolist()))
    good, lost = read(path, "matterport3d")
    check_rest(clean["matterport3d"][1], (good, lost), lambda _, passport: pano in passport)
    error = lost.pop(f"{HOUSE}.{pano}")
    assert "not rigid: its determinant is -1" in error.reason and error.uri == str(graph(path))
    assert {key.split(".")[1] for key in lost} == {"route"} and len(lost) == 2


def test_a_pose_of_a_folder_that_is_not_rigid(clean, copy):
    path = copy("panorama")

    def mirror(value: dict[str, Any]) -> None:
        turned = np.reshape(value["panoramas"][0]["pose"], (4, 4)) @ MIRRORED
        value["panoramas"][0]["pose"] = turned.ravel().tolist()

    edit(path / "house/poses.json", mirror)
    good, lost = read(path, "panorama")
    (error,) = lost.values()
    assert error.key == "house.0.jpg" and error.where == "panoramas[0]"
    assert "the pose of 0.jpg is not rigid: its determinant is -1" in error.reason
    check_rest(clean["panorama"][1], (good, lost), lambda name, passport: about(passport, 0))


def about(passport: str, number: int) -> bool:
    """Whether an episode of the house shows its panorama of this number."""
    return f"{number}.jpg" in passport


def test_depth_of_zeros(clean, copy):
    path = copy("matterport3d")
    pano = panos(path)[2]
    depths = list((path / HOUSE / "undistorted_depth_images").glob(f"{pano}_*"))
    for file in depths:
        Image.fromarray(np.zeros((64, 80), np.uint16)).save(file)
    good, lost = read(path, "matterport3d")
    before = clean["matterport3d"][1]
    check_rest(before, (good, lost), lambda name, passport: moves_at(name, passport, pano))
    assert {e.reason for e in lost.values()} == {
        f"panorama {pano} of {HOUSE}: the depth is all zeros"
    }
    assert {key.split(".")[1] for key in lost} == {"go", "route"}
    assert all(key.startswith(HOUSE) and e.stage == "overlap" for key, e in lost.items())


def test_depth_of_zeros_in_a_folder(clean, copy):
    path = copy("panorama")
    Image.fromarray(np.zeros((96, 192), np.uint16)).save(path / "house/2_depth.png")
    good, lost = read(path, "panorama")
    before = clean["panorama"][1]
    costs = {name for name, row in before[0].items() if moves_at(name, row[0], "2.jpg")}
    assert costs == before[0].keys() - good.keys()
    assert {e.reason for e in lost.values()} == {"2_depth.png: the depth is all zeros"}
    assert all(e.uri == str(path / "house/2_depth.png") for e in lost.values())
    for name in good:  # a walk that met it turned elsewhere
        assert good[name] == before[0][name] or ".walk." in name


@pytest.mark.parametrize("damage", ["gone", "cut", "other size"])
def test_depth_that_cannot_be_read(clean, copy, damage):
    """One of the eighteen: what is measured by them is lost, and not measured by the rest."""
    path = copy("matterport3d")
    pano = panos(path)[2]
    file = path / HOUSE / "undistorted_depth_images" / f"{pano}_d0_3.png"
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-30])
    else:
        Image.fromarray(np.ones((64, 64), np.uint16)).save(file)
    good, lost = read(path, "matterport3d")
    before = clean["matterport3d"][1]
    check_rest(before, (good, lost), lambda name, passport: moves_at(name, passport, pano))
    assert all(f"panorama {pano} of {HOUSE}: " in e.reason for e in lost.values())


@pytest.mark.parametrize("flags", [[True] * 4, [True] * 2, [], None])
def test_a_connectivity_index_out_of_range(clean, copy, flags):
    path = copy("matterport3d")
    pano = panos(path)[0]
    edit(graph(path), lambda entries: entries[0].update(unobstructed=flags))
    good, lost = read(path, "matterport3d")
    check_rest(clean["matterport3d"][1], (good, lost), lambda _, passport: pano in passport)
    count = len(flags) if flags is not None else "no"
    error = lost.pop(f"{HOUSE}.{pano}")
    assert error.reason == f"unobstructed has {count} flags for 3 panoramas: out of range"
    assert error.where == "[0]" and error.uri == str(graph(path))
    assert {key.split(".")[1] for key in lost} == {"route"}


@pytest.mark.parametrize("list_", ["connectivity", "scenes_train.txt"])
def test_a_scan_that_is_listed_but_absent(clean, copy, list_):
    path, absent = copy("matterport3d"), "zZ9yX8wV7uT"
    if list_ == "connectivity":
        graph(path, absent).write_text("[]")
    else:
        (path / list_).write_text(f"{HOUSE}\n{absent}\n")
    good, lost = read(path, "matterport3d")
    assert good == clean["matterport3d"][1][0]
    (error,) = lost.values()
    assert error.key == absent and not error.counts
    assert error.reason == f"scan {absent} is listed, but not there"


def test_an_image_that_is_listed_but_absent(clean, copy):
    path = copy("panorama")
    (path / "house/1.jpg").unlink()
    good, lost = read(path, "panorama")
    (error,) = (e for e in lost.values() if e.counts)
    assert error.key == "house.1.jpg" and error.where == "panoramas[1]"
    assert error.reason == "1.jpg is listed in poses.json, but not there"
    before = clean["panorama"][1][0]
    kept = {name: row for name, row in before.items() if not about(row[0], 1)}
    assert kept.items() <= good.items() and not any(about(row[0], 1) for row in good.values())


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff\xd8\xff", b"[[]]"])
def test_routes_that_cannot_be_read_cost_the_routes(clean, copy, data):
    path = copy("matterport3d")
    (path / "R2R_train.json").write_bytes(data)
    good, lost = read(path, "matterport3d")
    check_rest(clean["matterport3d"][1], (good, lost), lambda name, _: ".route." in name)
    assert {e.uri for e in lost.values()} == {str(path / "R2R_train.json")}


def test_a_connectivity_that_cannot_be_read_costs_its_scan(clean, copy):
    path = copy("matterport3d")
    graph(path).write_text("[{")
    good, lost = read(path, "matterport3d")
    check_rest(clean["matterport3d"][1], (good, lost), lambda name, _: name.startswith(HOUSE))
    assert list(lost) == [HOUSE] and "not JSON" in lost[HOUSE].reason


@pytest.mark.parametrize(
    "text", ["[", "{}", '{"panoramas": []}', "[" * 100_000, '{"panoramas": 1}']
)
def test_a_poses_json_that_cannot_be_read_costs_its_folder(clean, copy, text):
    path = copy("panorama")
    (path / "house/poses.json").write_text(text)
    good, lost = read(path, "panorama")
    check_rest(clean["panorama"][1], (good, lost), lambda name, _: name.startswith("house."))
    assert list(lost) == ["house"] and "poses.json: " in lost["house"].reason


def test_panoramas_that_all_reach_each_other_are_refused_in_time(copy):
    """A graph of the most that a file can hold; one of a real house has ten neighbours at most."""
    path, n = copy("matterport3d"), 2000
    flags, ident = f"[{','.join(['true'] * n)}]", json.dumps(np.eye(4).ravel().tolist())
    entry = f'"included": true, "pose": {ident}, "unobstructed": {flags}'
    entries = ",".join(f'{{"image_id": "p{i}", {entry}}}' for i in range(n))
    graph(path).write_text(f"[{entries}]")
    _, lost = read(path, "matterport3d")
    assert lost[f"{HOUSE}.p0"].reason == f"{n} neighbours, more than 100"
    assert sum("neighbours" in e.reason for e in lost.values()) == n


def test_panoramas_that_are_all_in_one_place(copy):
    path, n = copy("panorama"), 100
    names = [f"{i:03d}.png" for i in range(n)]
    for name in names:
        os.link(path / "house/0.jpg", path / "house" / name)
    turn = np.eye(4)
    at = [turn + np.diag([1.0 * (i % 2)], 3) for i in range(n)]
    listed = [{"image": name, "pose": pose.tolist()} for name, pose in zip(names, at, strict=True)]
    listed[0]["neighbours"] = names * 2
    value = {"world": "z_up", "camera": "opencv", "panoramas": listed}
    (path / "house/poses.json").write_text(json.dumps(value))
    source, options = sources.get("panorama"), dict.fromkeys(("looks", "steps", "walks"), 0)
    units = [dataclasses.replace(u, options=options) for u in source.units(str(path))]
    items = [x for unit in units for x in source.episodes(unit)]
    losses = [x for x in items if isinstance(x, DataError) and x.counts]
    assert [x.reason for x in losses] == [f"{names[0]} has {2 * n} neighbours, more than 100"]
    goes = [x.id if not isinstance(x, DataError) else x.key for x in items]
    goes = [name for name in goes if name.startswith("house.go.")]
    # six ways out of each, the first by name of those that are as near
    assert len(goes) == 6 * (n - 1)
    assert goes[:6] == [f"house.go.{names[1]}.{names[i]}" for i in range(2, 14, 2)]


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\udcff.jpg", " a.jpg"])
def test_an_image_whose_name_is_no_text(clean, copy, name):
    path = copy("panorama")
    for folder in ("loose", "house"):
        shutil.copy(path / "loose/garden.jpg", os.fsencode(path / folder / name))
    good, lost = read(path, "panorama")
    assert good == clean["panorama"][1][0]
    assert len(lost) == 2 and all("rename it" in e.reason for e in lost.values())
    for error in lost.values():
        assert error.key.isprintable() and error.key.encode()


@pytest.mark.parametrize("source", ["matterport3d", "panorama"])
@pytest.mark.parametrize("kind", ["empty", "file", "absent", "nothing in it"])
def test_a_path_without_panoramas(source, kind, tmp_path):
    path = tmp_path / "raw"
    if kind == "file":
        path.write_bytes(b"\xff\xd8\xff")
    elif kind != "absent":
        (path / "a").mkdir(parents=True)
    if kind == "nothing in it":
        (path / "a/readme.txt").write_text("hello")
        (path / "poses.json").write_text("{}")
    with pytest.raises(UsageError) as e:
        list(sources.get(source).units(str(path)))
    said = str(e.value)
    assert said.startswith(f"{path}: found no ") and "give the folder" in said
    assert f"unisim sources {source}" in said and "\n" not in said


@pytest.mark.parametrize("source, scan", [("matterport3d", HOUSE), ("panorama", "house")])
def test_a_folder_whose_name_is_no_scans(copy, source, scan):
    path = copy(source)
    (path / scan).rename(path / "a\nb")
    with pytest.raises(UsageError) as e:
        list(sources.get(source).units(str(path)))
    assert "a b" in str(e.value) and "\n" not in str(e.value)


def test_a_list_of_scans_that_is_none(copy):
    path = copy("matterport3d")
    (path / "scenes_val.txt").mkdir()
    assert list(sources.get("matterport3d").units(str(path)))
    (path / "scenes_train.txt").write_bytes(b"a\n" * (1 << 20))
    with pytest.raises(UsageError, match=r"scenes_train\.txt: .* no list of scans") as e:
        list(sources.get("matterport3d").units(str(path)))
    assert "\n" not in str(e.value)
