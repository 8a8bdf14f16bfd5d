"""Matterport3D's own files: what they say is read, and what is wrong costs itself alone."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ops import pose
from pipelines.sources._matterport3d_files import (
    Node,
    read_conf,
    read_connectivity,
    read_routes,
)
from schemas import DataError
from tests.fuzz.mutations import BYTES, json_values

PANO = "03a8325e3b054e3fad7e1e7091f9d283"
# lines of the owners' 17DRP5sb8fy.conf
HEADER = """\
dataset matterport
n_images 2358
depth_directory undistorted_depth_images
color_directory undistorted_color_images

intrinsics_matrix 1076.45 0 631.116  0 1077.19 509.202  0 0 1
"""
UP = (
    "0.90525 0.275848 0.323155 -2.99825 0.42464 -0.612795 -0.666455 -14.4532"
    " 0.0141878 0.740533 -0.67187 1.33124 0 0 0 1"
)
LEVEL = (
    "0.902625 -0.00853222 0.430341 -2.99332 0.430149 -0.017951 -0.902578 -14.4636"
    " 0.0154264 0.999802 -0.0125343 1.36432 0 0 0 1"
)


def scan(camera: int, yaw: int, numbers: str = LEVEL, pano: str = PANO) -> str:
    return f"scan {pano}_d{camera}_{yaw}.png {pano}_i{camera}_{yaw}.jpg {numbers}\n"


def conf(*lines: str) -> bytes:
    return (HEADER + "".join(lines)).encode()


GOOD = conf(*(scan(camera, yaw) for camera in range(3) for yaw in range(6)))


def test_real_lines_of_a_conf():
    images, errors = read_conf(conf(scan(0, 0, UP), scan(1, 0)))
    assert not errors
    up, level = images
    assert (up.name, up.depth) == (f"{PANO}_i0_0.jpg", f"{PANO}_d0_0.png")
    assert [(i.pano, i.camera, i.yaw) for i in images] == [(PANO, 0, 0), (PANO, 1, 0)]
    assert level.intrinsics.tolist() == [[1076.45, 0, 631.116], [0, 1077.19, 509.202], [0, 0, 1]]
    assert up.pose[:3, 3].tolist() == [-2.99825, -14.4532, 1.33124]
    # OpenCV: x to the right, y down, z forward. Camera 0 looks up, 1 does not, and both stand on
    # their feet, facing the same way
    right, down, forward = up.pose[:3, :3].T
    assert math.degrees(math.asin(forward[2])) == pytest.approx(42, abs=2)
    assert down[2] < -0.7 and abs(right[2]) < 0.02
    right, down, ahead = level.pose[:3, :3].T
    assert math.degrees(math.asin(ahead[2])) == pytest.approx(0, abs=2)
    assert down[2] < -0.99 and abs(right[2]) < 0.02
    assert math.atan2(forward[1], forward[0]) == pytest.approx(
        math.atan2(ahead[1], ahead[0]), abs=0.02
    )


def test_the_files_opengl_camera_looks_along_its_minus_z():
    """A point 2 m in front, 1 m above and 3 m to the right of the camera, in both conventions."""
    (image,), _ = read_conf(conf(scan(1, 5, UP)))
    opengl = np.array(UP.split(), float).reshape(4, 4)
    seen = np.linalg.inv(image.pose) @ opengl @ [3, 1, -2, 1]
    assert seen == pytest.approx([3, -1, 2, 1], abs=1e-4)
    assert np.abs(image.pose[:3, :3].T @ image.pose[:3, :3] - np.eye(3)).max() < 1e-12


def test_intrinsics_hold_for_the_images_after_them():
    other = "intrinsics_matrix 1000 0 600  0 1001 500  0 0 1\n"
    images, errors = read_conf(conf(scan(0, 0), scan(0, 1), other, scan(1, 0)))
    assert not errors
    assert [image.intrinsics[0, 0] for image in images] == [1076.45, 1076.45, 1000]


def test_line_ends_and_spaces_do_not_matter():
    images, errors = read_conf(GOOD)
    again, _ = read_conf(GOOD.replace(b"\n", b" \r\n").replace(b" ", b"\t "))
    assert not errors and len(images) == len(again) == 18
    for image, other in zip(images, again, strict=True):
        assert image.name == other.name and (image.pose == other.pose).all()


BAD_LINES = {
    "exposure 12": ("is no line of a .conf", ""),
    "\xe9\xe9": ("is no line of a .conf", ""),
    "scan": ("is not named", ""),
    f"scan {PANO}_d1_0.png": ("is not named", ""),
    scan(1, 0, "0 1 2"): ("not 16 finite numbers", PANO),
    scan(1, 0, LEVEL + " 0"): ("not 16 finite numbers", PANO),
    scan(1, 0, LEVEL.replace("1.36432", "nan")): ("not 16 finite numbers", PANO),
    scan(1, 0, LEVEL.replace("1.36432", "1e999")): ("not 16 finite numbers", PANO),
    scan(1, 0, LEVEL.replace("1.36432", "1_0")): ("not 16 finite numbers", PANO),
    scan(1, 0, LEVEL.replace("1.36432", "1e9")): ("very far away", PANO),
    scan(1, 0, LEVEL.replace("0.902625", "0.8")): ("is not rigid", PANO),
    scan(1, 0, "-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"): ("determinant is -1", PANO),
    scan(1, 0, "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 2"): ("last row", PANO),
    scan(3, 0): ("is not named", ""),
    scan(1, 6): ("is not named", ""),
    scan(1, 0, pano="../x"): ("is not named", ""),
    scan(1, 0, pano="x" * 65): ("is not named", ""),
    scan(1, 0).replace("d1_0", "d1_1"): ("wanted " + PANO, PANO),
    scan(1, 0).replace(".png", ".jpg"): ("wanted " + PANO, PANO),
    scan(2, 5): ("was listed before", PANO),
    "x" * 100_000: ("is no line of a .conf", ""),
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_costs_itself(line):
    reason, key = BAD_LINES[line]
    data = conf(scan(2, 5)) + line.strip().encode("latin-1") + b"\n" + scan(2, 4).encode()
    images, (error,) = read_conf(data)
    assert [image.yaw for image in images] == [5, 4]
    assert reason in error.reason and error.reason.startswith("line 8: ")
    assert (error.where, error.key) == ("line 8", key)
    assert "\n" not in error.reason and len(error.reason) < 300


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1 0 0",
        "1 0 0 0 1 0 0 0 x",
        "0 0 5 0 9 5 0 0 1",
        "9 1 5 0 9 5 0 0 1",
        "9 0 5 0 9 5 0 0 2",
    ],
)
def test_bad_intrinsics_cost_the_images_that_they_are_of(line):
    """Those before them are another camera's."""
    first = "intrinsics_matrix 9 0 5 0 9 5 0 0 1\n"
    data = conf(scan(0, 0), f"intrinsics_matrix {line}\n", scan(1, 0), first, scan(2, 0))
    images, errors = read_conf(data)
    assert [image.camera for image in images] == [0, 2]
    assert [error.where for error in errors] == ["line 8", "line 9"]
    assert "intrinsics_matrix" in errors[0].reason
    assert "no intrinsics" in errors[1].reason and errors[1].key == PANO


def test_images_before_any_intrinsics():
    _, errors = read_conf(b"dataset matterport\n" + scan(0, 0).encode())
    assert [error.key for error in errors] == [PANO] and "no intrinsics" in errors[0].reason


def test_many_errors_are_told_in_few():
    images, errors = read_conf(conf(*["what is this\n"] * 1234, scan(0, 0)))
    assert len(images) == 1 and len(errors) == 101
    assert errors[99].where == "line 106" and errors[100].reason.startswith("1134 errors more")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8\xff\xe0" + bytes(200),
        b"<html>404</html>",
        HEADER.encode("utf-16"),
        HEADER.encode() + b"\n" * 100_000,
        b" " * ((64 << 20) + 1),
    ],
    ids=["empty", "JPEG", "HTML", "UTF-16", "many lines", "large"],
)
def test_what_is_no_conf_is_refused(data):
    with pytest.raises(DataError) as e:
        read_conf(data)
    assert "\n" not in e.value.reason


def graph(n: int = 4, **changes: Any) -> list[dict[str, Any]]:
    """Panoramas on a line that are all in sight of each other."""
    return [
        {
            "image_id": f"pano{i}",
            "pose": [1, 0, 0, i, 0, 0, 1, 0, 0, -1, 0, 1.5, 0, 0, 0, 1],
            "included": True,
            "visible": [j != i for j in range(n)],
            "unobstructed": [j != i for j in range(n)],
            "height": 1.5,
        }
        | changes
        for i in range(n)
    ]


def read_graph(entries: Any) -> tuple[dict[str, Node], list[DataError]]:
    nodes, errors = read_connectivity(json.dumps(entries).encode())
    return {node.pano: node for node in nodes}, errors


def test_a_graph_is_read_as_it_is():
    entries = graph()
    entries[0]["unobstructed"] = [True, False, True, False]  # itself does not count
    entries[3]["included"] = False
    nodes, errors = read_graph(entries)
    assert not errors and list(nodes) == ["pano0", "pano1", "pano2"]
    assert nodes["pano0"].neighbours == ("pano2",)
    assert nodes["pano1"].neighbours == ("pano0", "pano2")
    assert nodes["pano2"].neighbours == ("pano0", "pano1")
    assert all(node.included for node in nodes.values())
    assert nodes["pano2"].pose.tolist() == np.reshape(entries[2]["pose"], (4, 4)).tolist()


def test_rows_are_the_worlds_axes():
    """Row-major camera-to-world in OpenCV's axes: this camera looks north and stands upright."""
    nodes, _ = read_graph(graph())
    at = nodes["pano2"].pose
    assert (at @ [0, 0, 1, 0])[:3].tolist() == [0, 1, 0]
    assert (at @ [0, 1, 0, 0])[:3].tolist() == [0, 0, -1]
    assert (at @ [1, 0, 0, 0])[:3].tolist() == [1, 0, 0]
    body = pose.change_camera(at, "opencv", "body")
    assert np.abs(body - pose.facing(np.array([2, 0, 1.5]), math.pi / 2)).max() < 1e-12


BAD_ENTRIES: list[tuple[dict[str, Any], str]] = [
    ({"pose": [1.0] * 16}, "is not rigid"),
    ({"pose": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}, "determinant is -1"),
    ({"pose": np.diag([1, 1, -1, 1]).tolist()}, "determinant is -1"),
    ({"pose": np.eye(4).ravel().astype(str).tolist()}, "16 numbers"),
    ({"pose": [True, *np.eye(4).ravel().tolist()[1:]]}, "16 numbers"),
    ({"pose": [float("nan")] * 16}, "not finite"),
    ({"pose": [10**400] * 16}, "16 numbers"),
    ({"pose": [[0.0] * 100_000] * 16}, "16 numbers"),
    ({"pose": None}, "16 numbers"),
    ({"unobstructed": [True] * 5}, "5 flags for 4 panoramas: out of range"),
    ({"unobstructed": [True] * 3}, "3 flags for 4 panoramas: out of range"),
    ({"unobstructed": [1, 0, 1, 1]}, "something else than true and false"),
    ({"unobstructed": None}, "no flags"),
    ({"included": 1}, "wanted true or false"),
    ({"image_id": "pano0"}, "listed before"),
]


@pytest.mark.parametrize("change, reason", BAD_ENTRIES)
def test_a_bad_entry_costs_its_node_and_the_edges_to_it(change, reason):
    entries = graph()
    entries[1] |= change
    nodes, (error,) = read_graph(entries)
    assert list(nodes) == ["pano0", "pano2", "pano3"]
    assert nodes["pano0"].neighbours == ("pano2", "pano3")
    assert nodes["pano3"].neighbours == ("pano0", "pano2")
    assert reason in error.reason and error.key == entries[1]["image_id"]
    assert error.where == "[1]" and len(error.reason) < 300


@pytest.mark.parametrize("name", ["../x", "", "x" * 65, "a b", "pano\n", None, 5, ["pano1"]])
def test_a_bad_id_costs_its_node_and_names_nothing(name):
    entries = graph()
    entries[1]["image_id"] = name
    nodes, (error,) = read_graph(entries)
    assert list(nodes) == ["pano0", "pano2", "pano3"]
    assert error.key == "" and error.where == "[1]"


def test_an_entry_that_is_no_object():
    nodes, errors = read_graph([5, *graph(3, unobstructed=[True] * 4), None])
    # the flags of the three were written for four
    assert not nodes and len(errors) == 5
    assert "wanted an object" in errors[0].reason


def test_what_is_not_included_is_not_looked_at():
    entries = graph()
    entries[1] = {"image_id": "../x", "included": False, "pose": None}
    nodes, errors = read_graph(entries)
    assert not errors and list(nodes) == ["pano0", "pano2", "pano3"]


def route(number: Any = 7, **changes: Any) -> dict[str, Any]:
    return {
        "distance": 10.9,
        "scan": "house",
        "path_id": number,
        "path": ["pano0", "pano1", "pano2"],
        "heading": 5.015,
        "instructions": ["Walk straight\nand stop.  ", "Go.", "Wait by the door. "],
    } | changes


def read(entries: Any):
    return read_routes(json.dumps(entries).encode(), "house")


def test_routes_of_one_scan():
    routes, errors = read([route(3), route(4, scan="other"), route("5-b", instructions=[" "])])
    assert not errors
    first, second = routes
    assert (first.key, first.scan, first.heading) == ("3", "house", 5.015)
    assert first.panos == ("pano0", "pano1", "pano2")
    assert first.instructions == ("Walk straight and stop.", "Go.", "Wait by the door.")
    assert second.key == "5-b" and second.instructions == ()


def test_the_test_split_is_a_declared_loss():
    routes, errors = read([route(1, path=["pano0"]), route(2)])
    assert [r.key for r in routes] == ["2"]
    assert [(e.key, e.counts, e.where) for e in errors] == [("path 1", False, "[0]")]


BAD_ROUTES: list[tuple[dict[str, Any], str, str]] = [
    ({"path": "pano0"}, "path is not a list", "path 1"),
    ({"path": ["pano0", 5]}, "path is not a list", "path 1"),
    ({"path": ["pano0", "../x"]}, "path is not a list", "path 1"),
    ({"path": ["pano0"] * 1001}, "more than 1000", "path 1"),
    ({"heading": None}, "heading is missing", "path 1"),
    ({"heading": "1.5"}, "heading is '1.5'", "path 1"),
    ({"heading": float("nan")}, "wanted radians", "path 1"),
    ({"heading": float("inf")}, "wanted radians", "path 1"),
    ({"heading": 10**400}, "wanted radians", "path 1"),
    ({"heading": True}, "wanted radians", "path 1"),
    ({"instructions": "Go."}, "not a list of texts", "path 1"),
    ({"instructions": ["Go.", 5]}, "not a list of texts", "path 1"),
    ({"path_id": 2}, "was listed before", "path 2"),
    ({"path_id": None}, "path_id is missing", "path [1]"),
    ({"path_id": True}, "path_id is a bool", "path [1]"),
    ({"path_id": "a b"}, "path_id is 'a b'", "path [1]"),
    ({"scan": 5}, "names no scan", "path [1]"),
]


@pytest.mark.parametrize("change, reason, key", BAD_ROUTES)
def test_a_bad_route_costs_itself(change, reason, key):
    routes, (error,) = read([route(2), route(1, **change) | change, route(3)])
    assert [r.key for r in routes] == ["2", "3"]
    assert reason in error.reason and error.counts
    assert (error.key, error.where) == (key, "[1]")


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"[" * 100_000, b"\xff\xfe\x00", b'["'])
def test_what_is_no_json_list_is_refused(data):
    for parse in (read_connectivity, lambda data: read_routes(data, "house")):
        with pytest.raises(DataError) as e:
            parse(data)
        assert "\n" not in e.value.reason and len(e.value.reason) < 300


def test_lists_that_are_too_long_are_refused():
    with pytest.raises(DataError, match="20001 entries"):
        read_connectivity(json.dumps([0] * 20_001).encode())
    with pytest.raises(DataError, match="1000001 entries"):
        read_routes(json.dumps([0] * 1_000_001).encode(), "house")
    with pytest.raises(DataError, match="bytes, more than"):
        read_connectivity(b" " * ((64 << 20) + 1))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([*BYTES, json_values]))
def test_damaged_files_raise_nothing_but_data_errors(seed, damage):
    rng = np.random.default_rng(seed)
    cases = [
        (GOOD, read_conf),
        (json.dumps(graph()).encode(), read_connectivity),
        (
            json.dumps([route(i) for i in range(4)]).encode(),
            lambda data: read_routes(data, "house"),
        ),
    ]
    for data, parse in cases:
        try:
            found, errors = parse(damage(data, rng))
        except DataError as e:
            found, errors = [], [e]
        for error in errors:
            assert "\n" not in error.reason and len(error.reason) < 400
        known = {node.pano for node in found if isinstance(node, Node)}
        for node in found:
            assert not isinstance(node, Node) or known.issuperset(node.neighbours)
