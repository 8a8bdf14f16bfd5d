"""`unisim embed`: the reference's embeddings through the Beam stage; bit by bit as at once."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from schemas import Manifest, text_key
from schemas.embedding import decode_embedding
from schemas.table import text_file, text_keys
from tests.command import files_of, unisim
from tests.samples import sample

MODELS = ["t5/tiny-v1.0", "t5/tiny-v1.1"]


def t5(model: str, folder: Path) -> Path:
    """A T5 directory of the reference weights and T5's own vocabulary."""
    shutil.copytree(sample(model), folder)
    shutil.copy(sample("t5/vocabulary/spiece.model"), folder)
    return folder


def expected(model: str) -> dict[str, np.ndarray]:
    """Text -> the reference's states of its real tokens."""
    found = np.load(sample(model) / "expected.npz", allow_pickle=False)
    rows = zip(found["last_hidden_state"], found["attention_mask"].astype(bool), strict=True)
    return {t: row[mask] for t, (row, mask) in zip(found["texts"].tolist(), rows, strict=True)}


def manifest_of(out: Path) -> Manifest:
    return Manifest.from_json((out / "manifest.json").read_text())


def stored(out: Path, name: str) -> dict[bytes, np.ndarray]:
    """The embeddings of a table, float32, by key."""
    from array_record.python.array_record_module import ArrayRecordReader

    info = manifest_of(out).encoder(name)
    keys = np.load(out / text_keys(name, info.rows))
    rows = []
    for shard, count in enumerate(info.shard_rows):
        if count:
            name = text_file(info.name, shard, len(info.shard_rows), count)
            reader = ArrayRecordReader(str(out / name))
            rows += [decode_embedding(row, info.width, info.dtype) for row in reader.read_all()]
            reader.close()
    pairs = zip(keys, rows, strict=True)
    return {key.tobytes(): row.astype(np.float32) for key, row in pairs}


def bfloat16(values: np.ndarray) -> np.ndarray:
    return values.astype(ml_dtypes.bfloat16).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each token."""
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"  {text}\r\n" for text in texts))
    return path


@pytest.fixture(scope="module")
def at_once(tmp_path_factory, fake_table) -> dict[str, Path]:
    """Both models, with the reference's texts besides the table's: in `table`, and in `half` as
    bfloat16 gives them."""
    made = {}
    for model in MODELS:
        out = tmp_path_factory.mktemp("embed")
        for name in ("table", "half"):
            shutil.copytree(fake_table, out / name)
        given = lines(out / "texts.txt", list(expected(model)))
        flags = ["--t5", t5(model, out / "t5"), "--texts", given, "--workers", 2]
        unisim("embed", "--data", out / "table", *flags)
        unisim("embed", "--data", out / "half", *flags, "--embedding-compute", "bfloat16")
        made[model] = out
    return made


@pytest.mark.parametrize("model", MODELS)
def test_the_stage_gives_the_reference_s_states(model, at_once):
    found = stored(at_once[model] / "table", "t5")
    for text, states in expected(model).items():
        row = found[text_key(text)]
        assert row.shape == states.shape
        # what is rounded to bfloat16 is within 1e-4: rounding keeps the order of values
        assert (bfloat16(states - 1e-4) <= row).all() and (row <= bfloat16(states + 1e-4)).all()
        assert cosine(row, states).min() >= 0.9999


@pytest.mark.parametrize("model", MODELS)
def test_the_stage_computes_in_bfloat16(model, at_once):
    found = stored(at_once[model] / "half", "t5-bf16")
    exact = stored(at_once[model] / "table", "t5")
    for text, states in expected(model).items():
        row = found[text_key(text)]
        assert cosine(row, states).min() >= 0.9995
        assert (row != exact[text_key(text)]).any()


def test_frames_and_the_first_encoder_stay_as_they_are(at_once, fake_table):
    before, after = files_of(fake_table), files_of(at_once[MODELS[0]] / "table")
    manifests = [json.loads(x.pop("manifest.json")) for x in (before, after)]
    assert {name: after.pop(name) for name in before} == before
    assert {name.split("/")[1] for name in after} == {"t5"}
    assert manifests[1]["encoders"][0] == manifests[0]["encoders"][0]
    assert set(manifests[1]["files"]) - set(manifests[0]["files"]) == set(after)
    unisim("audit", at_once[MODELS[0]] / "table")


def test_bit_by_bit_is_as_at_once_and_then_nothing_is_left_to_do(at_once, fake_table, tmp_path):
    """One worker and two texts files; at once there were two workers."""
    out, model = tmp_path / "table", MODELS[1]
    shutil.copytree(fake_table, out)
    t5_flags = ["--t5", at_once[model] / "t5", "--workers", 1]
    first = lines(tmp_path / "first.txt", list(expected(model))[::2])
    unisim("embed", "--data", out, *t5_flags, "--texts", first)
    unisim("audit", out)
    rest = lines(tmp_path / "rest.txt", list(expected(model)))
    result = unisim("embed", "--data", out, *t5_flags, "--texts", rest)
    new = len(set(expected(model)) - set(list(expected(model))[::2]) - {""})
    assert f"{new} texts added" in result.stdout
    straight = files_of(at_once[model] / "table")
    assert files_of(out) == straight
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "0 texts added" in unisim("embed", "--data", out, *t5_flags, "--texts", rest).stdout
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    same_name = shutil.copytree(at_once[MODELS[0]] / "t5", tmp_path / "t5")
    refused = unisim("embed", "--data", out, "--t5", same_name, code=2).stderr
    assert "another encoder that is called 't5' too" in refused and "rename the --t5" in refused
    assert files_of(out) == straight


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--data", "TMP"], "no table, manifest.json is not there; run `unisim prepare`"),
        (["--data", "TABLE", "--texts", "TMP/none.txt"], "none.txt: no such file"),
        (["--data", "TABLE", "--texts", "TMP/latin.txt"], "latin.txt: line 2 is not UTF-8"),
        (["--data", "TABLE", "--t5", "TMP/none"], "no such T5 directory"),
        (["--data", "TABLE", "--worker", "1"], "unknown flag --worker; did you mean 'workers'?"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags, wanted, tmp_path, fake_table):
    (tmp_path / "latin.txt").write_bytes("fine\nça va\n".encode("latin-1"))
    times = {path: path.stat().st_mtime_ns for path in fake_table.rglob("*")}
    args = [f.replace("TMP", str(tmp_path)).replace("TABLE", str(fake_table)) for f in flags]
    result = unisim("embed", *args, code=2)
    (line,) = (x for x in result.stderr.splitlines() if x.startswith("unisim: "))
    assert wanted in line and result.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in fake_table.rglob("*")} == times
