"""The encoder as a whole: tiny-random, what a damaged directory says, determinism."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pipelines.text import TextEncoder, check_directory
from pipelines.text.tiny import write_tiny
from pipelines.text.vocabulary import ModelProto
from schemas import UsageError
from tests.samples import sample

GOLDEN = {
    "config.json": "c137662c0e04064619240712a62cc6fc",
    "model.safetensors": "fa7b019ad7cdd56526e6bffaec6e8855",
    "spiece.model": "b6e45391516af9b9de2cbf9600d35a24",
}


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load(None)


@pytest.fixture
def t5_dir(tmp_path) -> Path:
    """A whole T5 directory, to be damaged."""
    folder = tmp_path / "t5-small"
    write_tiny(folder)
    return folder


@pytest.fixture(params=["tiny-v1.0", "tiny-v1.1"])
def real_dir(request, tmp_path) -> Path:
    """A T5 directory that this project did not make, with T5's own vocabulary."""
    folder = tmp_path / request.param
    shutil.copytree(sample(f"t5/{request.param}"), folder)
    folder.chmod(0o755)  # the samples may be read-only
    shutil.copy(sample("t5/vocabulary/spiece.model"), folder)
    return folder


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_vocabulary(folder: Path, change) -> None:
    path = folder / "spiece.model"
    model = ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


def test_tiny_is_the_same_bytes_on_every_machine(t5_dir, tmp_path):
    write_tiny(tmp_path / "again")
    for name, golden in GOLDEN.items():
        data = (t5_dir / name).read_bytes()
        assert data == (tmp_path / "again" / name).read_bytes()
        assert hashlib.blake2b(data, digest_size=16).hexdigest() == golden, name


def test_tiny_calls_itself_what_it_is(encoder):
    assert encoder.info == check_directory(None)
    assert encoder.info.name == "tiny-random"
    assert "not a language model" in encoder.info.description
    assert "random weights" in encoder.info.description


def test_tiny_tells_texts_apart(encoder):
    left, right = encoder.embed(["push the red block left", "push the red block right"])
    assert left.shape == right.shape == (6, 64)
    a, b = left.astype(np.float32), right.astype(np.float32)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine[4] < 0.5, "the word that differs"
    assert (cosine < 0.999).all(), "and every other token, through attention"
    assert 0.5 < a.std() < 2


def test_tiny_has_a_piece_for_all_typical_text(encoder):
    printable = "".join(chr(c) for c in range(32, 127)) + "Δ°±…"
    tokens = encoder.tokenizer.encode([*printable, "move the arm x +0.012 y -0.030 m, yaw +5°"])
    assert not (tokens.ids == 2).any()
    # six moving axes and a gripper must fit, or different actions would share an embedding
    longest = (
        "move the arm x +0.112 y -0.130 z +0.101 m roll +115 pitch -113 yaw +110 degrees,"
        " open the gripper to 37 percent"
    )
    assert not encoder.tokenizer.encode([longest]).truncated.any()


def test_embeddings_are_real_tokens_in_float32(encoder):
    texts = ["", "push", "🤖", "열린 서랍을 닫아", "up " * 500]
    rows = encoder.embed(texts)
    lengths = encoder.tokenizer.encode(texts).lengths
    assert [row.shape for row in rows] == [(n, encoder.info.width) for n in lengths]
    assert {row.dtype for row in rows} == {np.dtype(np.float32)}
    assert rows[0].shape[0] == 1 and rows[-1].shape[0] == encoder.info.max_tokens == 64
    assert encoder.embed([]) == []


def test_company_and_order_change_no_byte(encoder):
    texts = [f"pick up block {i} and put it {'left ' * (i % 40)}" for i in range(75)]
    alone = {text: encoder.embed([text])[0].tobytes() for text in texts}
    for seed in range(3):
        order = random.Random(seed).sample(texts, 20 * seed + 35)
        for text, row in zip(order, encoder.embed(order), strict=True):
            assert row.tobytes() == alone[text]


def test_a_directory_gives_the_reference_s_embeddings(real_dir):
    expected = np.load(real_dir / "expected.npz", allow_pickle=False)
    info = check_directory(str(real_dir))
    encoder = TextEncoder.load(str(real_dir), info)
    assert encoder.info == TextEncoder.load(f"{real_dir}/").info == info
    assert (info.name, info.width, info.max_tokens) == (real_dir.name, 32, 64)
    masks = expected["attention_mask"].astype(bool)
    rows = encoder.embed(expected["texts"].tolist())
    for row, mask, states in zip(rows, masks, expected["last_hidden_state"], strict=True):
        np.testing.assert_allclose(row, states[mask], rtol=0, atol=1e-4)


def test_the_digest_is_of_all_three_files_and_not_of_the_name(t5_dir):
    digest = check_directory(str(t5_dir)).digest
    assert len(bytes.fromhex(digest)) == 16
    moved = t5_dir.rename(t5_dir.with_name("t5-moved"))
    assert check_directory(str(moved)).digest == digest
    found = {digest}
    edit_config(moved, d_ff=128, comment="other bytes")
    found.add(check_directory(str(moved)).digest)
    edit_vocabulary(moved, lambda model: setattr(model.pieces[9], "score", -5))
    found.add(check_directory(str(moved)).digest)
    weights = moved / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found.add(check_directory(str(moved)).digest)
    assert len(found) == 4


def _no_dir(folder):
    shutil.rmtree(folder)


def _empty_dir(folder):
    _no_dir(folder)
    folder.mkdir()


def _file_instead(folder):
    _no_dir(folder)
    folder.write_text("")


def _other_format(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def _write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def _remove(name):
    return lambda folder: (folder / name).unlink()


def _tensors(change):
    def damage(folder):
        tensors = safetensors.numpy.load_file(folder / "model.safetensors")
        change(tensors)
        safetensors.numpy.save_file(tensors, folder / "model.safetensors")

    return damage


WO = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
DAMAGE = {
    "no directory": (_no_dir, "no such T5 directory"),
    "empty": (_empty_dir, "not a T5 directory, config.json is missing"),
    "a file": (_file_instead, "not a T5 directory, config.json is missing"),
    "no config": (_remove("config.json"), "config.json is missing"),
    "no vocabulary": (_remove("spiece.model"), "spiece.model is missing"),
    "no weights": (_remove("model.safetensors"), "model.safetensors is missing"),
    "another weight format": (_other_format, "convert them"),
    "config not JSON": (_cut("config.json", 20), "config.json: not JSON"),
    "config of another model": (
        lambda folder: edit_config(folder, model_type="bert"),
        "model_type is 'bert'",
    ),
    "tensor missing": (_tensors(lambda t: t.pop(WO)), f"{WO} missing"),
    "many missing": (_tensors(lambda t: [t.pop(k) for k in list(t)[:7]]), "and 3 more missing"),
    "wrong shape": (
        _tensors(lambda t: t.update({WO: t[WO].T.copy()})),
        rf"{WO} is \[128, 64\], config.json wants \[64, 128\]",
    ),
    "wrong type": (
        _tensors(lambda t: t.update({WO: t[WO].astype(np.int8)})),
        f"{WO} is I8, wanted one of F64, F32, F16, BF16",
    ),
    "other sizes": (lambda folder: edit_config(folder, d_ff=64), "config.json wants"),
    "more layers": (lambda folder: edit_config(folder, num_layers=3), r"encoder.block.2.*missing"),
    "cut in a tensor": (_cut("model.safetensors", 400_000), "truncated, 400000 of"),
    "cut in the header": (_cut("model.safetensors", 100), "truncated, 100 of"),
    "cut to nothing": (_cut("model.safetensors", 0), "not a safetensors file"),
    "LFS pointer": (
        _write("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"),
        "git lfs pull",
    ),
    "pickled weights": (_write("model.safetensors", b"\x80\x02}q\x00." * 9), "not a safetensors"),
    "not a vocabulary": (_write("spiece.model", b"\xff" * 99), "not a SentencePiece model"),
    "empty vocabulary": (_cut("spiece.model", 0), "not a SentencePiece model"),
    "another model's vocabulary": (
        lambda folder: edit_vocabulary(folder, lambda m: setattr(m.trainer_spec, "eos_id", 2)),
        "padding and end pieces are 0 and 2",
    ),
    "vocabulary too large": (
        lambda folder: edit_vocabulary(folder, lambda m: m.pieces.add(piece="x y", score=-9)),
        r"has \d+ pieces but config.json has vocab_size",
    ),
    "name of the built-in": (
        lambda folder: folder.rename(folder.parent / "tiny-random"),
        "the built-in encoder; rename",
    ),
    "no plain name": (lambda folder: folder.rename(folder.parent / "t5 ü"), "no plain file name"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_directory_says_in_one_line_what_is_wrong(damage, t5_dir):
    assert check_directory(str(t5_dir)).width == 64
    do, says = DAMAGE[damage]
    do(t5_dir)
    there = next((p for p in t5_dir.parent.iterdir() if p.name.startswith("t")), t5_dir)
    with pytest.raises(UsageError, match=says) as raised:
        check_directory(str(there))
    message = str(raised.value)
    assert str(there) in message and "\n" not in message
    with pytest.raises(UsageError, match=says):
        TextEncoder.load(str(there))


def test_weights_that_are_not_finite_are_refused_before_any_work(t5_dir):
    _tensors(lambda t: t[WO].__setitem__((3, 5), np.inf))(t5_dir)
    with pytest.raises(UsageError, match=f"{WO} has values that are not finite"):
        check_directory(str(t5_dir))


def test_embeddings_that_are_not_finite_are_refused(t5_dir):
    """Finite weights can still be too large for what they give to be finite."""
    _tensors(lambda t: t[WO].fill(3e38))(t5_dir)
    encoder = TextEncoder.load(str(t5_dir))
    with pytest.raises(UsageError, match="not finite"):
        encoder.embed(["push"])


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_what_it_computes_in_has_a_digest_and_a_name_of_its_own(compute, t5_dir):
    info = check_directory(str(t5_dir), compute=compute)
    encoder = TextEncoder.load(str(t5_dir), info)
    assert encoder.info.compute == compute
    float32 = check_directory(str(t5_dir))
    same = compute == "float32"
    assert (info.digest == float32.digest, info.name == float32.name) == (same, same)
    (row,), (exact,) = encoder.embed(["push"]), TextEncoder.load(str(t5_dir)).embed(["push"])
    assert np.array_equal(row, exact) == same
    with pytest.raises(ValueError, match="checked for"):
        TextEncoder.load(str(t5_dir), info, compute="float32" if not same else "bfloat16")


def test_the_check_is_light_and_loading_is_silent(t5_dir):
    program = (
        "import sys; from pipelines.text import TextEncoder, check_directory\n"
        f"check_directory(None); check_directory({str(t5_dir)!r})\n"
        "heavy = {'tensorflow', 'tensorflow_text', 'jax'} & set(sys.modules); assert not heavy\n"
        "print(TextEncoder.load(None).embed(['push'])[0].shape)\n"
        "print('still here', file=sys.stderr)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "(2, 64)\n"
    said = [line for line in run.stderr.splitlines() if "apitools" not in line]  # Beam's own
    assert said == ["still here"]
