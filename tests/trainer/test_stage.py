"""A staged copy has what a run needs, whole, or is no table."""

import json
import os
import shutil

import pytest

from infra.verbs import stage as verb
from schemas import UsageError
from tests.command import files_of, unisim
from trainer.data import Embeddings, Table
from trainer.data.fake import FakeSpec, write_fake_table


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    spec = FakeSpec(tiers=("24x40:raw", "48x80:jpeg"), episodes=9, images=5, shards=3)
    return write_fake_table(tmp_path_factory.mktemp("table"), 0, spec)


def _stage(path, out, *flags):
    return verb.main(["--data", str(path), "--out", str(out), *flags])


def test_a_copy_reads_like_the_original(path, tmp_path):
    out = tmp_path / "copy"
    said = unisim("stage", "--data", path, "--out", out)
    assert "0 B were there" in said.stdout and "frames-24x40" in said.stderr
    table, copy = Table(str(path), "24x40"), Table(str(out), "24x40")
    assert copy.digest == table.digest
    for row in range(len(table)):
        assert copy.chunk(row).pixels().tobytes() == table.chunk(row).pixels().tobytes()
        assert copy.chunk(row).text in Embeddings.of(copy)
    original, found = files_of(path), files_of(out)
    assert all(original[name] == data for name, data in found.items())
    folders = {name.partition("/")[0] for name in found}
    assert folders == {"frames-24x40", "index.parquet", "manifest.json", "text"}
    with pytest.raises(UsageError, match=r"frames-48x80: is not there; .*stage --tier 48x80"):
        Table(str(out), "48x80")
    assert _stage(path, out, "--tier", "48x80") == 0
    assert Table(str(out), "48x80").chunk(3).pixels().shape[1:3] == (48, 80)


def test_what_is_there_stays_and_what_is_damaged_is_copied_again(path, tmp_path, capsys):
    out = tmp_path / "copy"
    assert _stage(path, out) == 0
    files = [file for file in sorted(out.rglob("*")) if file.is_file()]
    times = {file: file.stat().st_mtime_ns for file in files}
    damaged = next(file for file in files if "moving-train" in file.name)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    (out / "manifest.json").unlink()
    capsys.readouterr()
    assert _stage(path, out) == 0
    assert f"{data and len(data) / 1000:.1f} kB copied" in capsys.readouterr().out
    assert damaged.read_bytes() == (path / damaged.relative_to(out)).read_bytes()
    again = {file for file in files if file.stat().st_mtime_ns != times[file]}
    assert again == {damaged, out / "manifest.json"}


def test_a_damaged_or_missing_original_is_named_and_nothing_is_a_table(path, tmp_path):
    copy = shutil.copytree(path, tmp_path / "original")
    file = next((copy / "frames-24x40").rglob("moving-train*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 16
    file.write_bytes(data)
    out = tmp_path / "copy"
    with pytest.raises(UsageError, match=rf"{file.name}: has \d+ bytes of digest \w+, wanted"):
        _stage(copy, out)
    file.write_bytes(bytes(data) + b"more")
    with pytest.raises(UsageError, match=rf"{file.name}: has {len(data) + 1} bytes"):
        _stage(copy, out)
    file.unlink()
    with pytest.raises(UsageError, match=rf"{file.name}: cannot be copied"):
        _stage(copy, out)
    assert not (out / "manifest.json").exists()
    assert not [found for found in out.rglob("*") if found.name in (file.name, "x.staging")]
    with pytest.raises(UsageError, match=r"no manifest.json"):
        Table(str(out))


@pytest.mark.parametrize("name", ["index.parquet/../../out", "frames-24x40//a", "frames-24x40/./a"])
def test_a_manifest_cannot_write_outside_of_the_copy(path, tmp_path, name):
    copy = shutil.copytree(path, tmp_path / "original")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name] = [3, "0" * 32]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UsageError, match=rf"manifest.json: not a manifest \(the file {name!r} is not in the table"
    ):
        _stage(copy, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_link_in_the_copy_is_not_followed(path, tmp_path):
    out, other = tmp_path / "copy", tmp_path / "precious"
    other.write_text("stays")
    assert _stage(path, out) == 0
    file = next(f for f in sorted(out.rglob("moving-train*")) if f.is_file())
    file.unlink()
    os.symlink(other, file)
    os.symlink(other, file.with_name(file.name + ".staging"))
    with pytest.raises(UsageError, match="cannot be copied"):
        _stage(path, out)
    assert _stage(path, out) == 0  # the link to be written through is gone
    assert other.read_text() == "stays" and not file.is_symlink()


def test_a_dry_run_copies_nothing_and_a_small_disk_is_said_before(
    path, tmp_path, monkeypatch, capsys
):
    assert _stage(path, tmp_path / "copy", "--dry-run") == 0
    assert "would be copied" in capsys.readouterr().err and not (tmp_path / "copy").exists()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UsageError, match=r"GB are to be copied, but 0.0 GB are free"):
        _stage(path, tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())
