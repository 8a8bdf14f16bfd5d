"""Listing and opening local files: names are taken as written, and nothing else is walked."""

import os

import pytest

from pipelines import files
from schemas import DataError


def names(found: list[tuple[str, int]], root) -> list[str]:
    return [path.removeprefix(f"{root}/") for path, _ in found]


@pytest.fixture
def root(tmp_path):
    """A folder whose own name is a pattern."""
    root = tmp_path / "a[0]*"
    for name in ("b/1.txt", "b/.2.txt", "b/c/3.txt", "d/1.txt", "1.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (tmp_path / "a0x").mkdir()
    (tmp_path / "a0x/1.txt").write_text("not below the folder")
    os.symlink(root, root / "b/loop")
    return root


def test_a_listing_is_sorted_with_sizes_and_has_files_alone(root):
    assert files.glob(str(root), "*") == [(f"{root}/1.txt", 5)]
    assert names(files.glob(str(root), "*", "*.txt"), root) == ["b/.2.txt", "b/1.txt", "d/1.txt"]
    assert files.glob(str(root / "absent"), "*") == []


def test_two_stars_are_everything_below_and_follow_no_link(root):
    found = names(files.glob(str(root), "**"), root)
    assert found == ["1.txt", "b/.2.txt", "b/1.txt", "b/c/3.txt", "d/1.txt"]
    assert names(files.glob(str(root), "*", "**"), root) == [name for name in found if "/" in name]


@pytest.mark.parametrize("name", ["absent", "b", "1.txt/below"])
def test_what_is_no_file_is_not_found(root, name):
    with pytest.raises(FileNotFoundError):
        files.read(str(root / name))
    with (
        pytest.raises(DataError, match="has gone since the plan"),
        files.open_planned(str(root / name)),
    ):
        pass
