"""Safetensors weights, in one file or several: what is read, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.text import TextEncoder, check_directory
from pipelines.text.config import T5Config
from pipelines.text.directory import Directory
from pipelines.text.tiny import write_tiny
from pipelines.text.weights import INDEX, Weights
from schemas import UsageError
from tests.samples import sample

MODELS = ["t5/tiny-v1.0", "t5/tiny-v1.1"]
FINAL = "encoder.final_layer_norm.weight"


@pytest.fixture
def t5_dir(tmp_path) -> Path:
    folder = tmp_path / "t5-small"
    write_tiny(folder)
    return folder


def tensors_of(folder: Path) -> dict[str, tuple[int, ...]]:
    return T5Config.from_json((folder / "config.json").read_bytes()).tensors()


def shard(folder: Path, parts: int = 3, decoder: bool = True) -> dict[str, str]:
    """Spreads model.safetensors over files with an index, as large models are published."""
    single = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(single)
    single.unlink()
    listed = {}
    for i in range(parts):
        part = {name: tensors[name] for name in sorted(tensors)[i::parts]}
        file = f"model-{i + 1:05d}-of-{parts:05d}.safetensors"
        safetensors.numpy.save_file(part, folder / file)
        listed |= dict.fromkeys(part, file)
    if decoder:  # the half of a T5 that is not used need not be there
        listed["decoder.final_layer_norm.weight"] = "model-of-the-decoder.safetensors"
    size = sum(value.nbytes for value in tensors.values())
    write_index(folder, listed, size)
    return listed


def write_index(folder: Path, listed: dict, size: object) -> None:
    value = {"metadata": {"total_size": size}, "weight_map": listed}
    (folder / INDEX).write_text(json.dumps(value))


@pytest.mark.parametrize("model", MODELS)
def test_tensors_are_what_the_format_s_own_library_reads(model):
    folder = sample(model)
    wanted = safetensors.numpy.load_file(folder / "model.safetensors")
    shapes = {name: value.shape for name, value in wanted.items()}
    read = dict(Weights.open(str(folder), shapes).read())
    assert read.keys() == wanted.keys()
    for name, value in wanted.items():
        assert read[name].dtype == value.dtype
        np.testing.assert_array_equal(read[name], value)


def test_several_files_are_as_one(t5_dir):
    whole = check_directory(str(t5_dir))
    (row,) = TextEncoder.load(str(t5_dir)).embed(["push the red block"])
    shard(t5_dir)
    assert check_directory(str(t5_dir)) == whole, "the digest is of tensors, not of files"
    (again,) = TextEncoder.load(str(t5_dir)).embed(["push the red block"])
    np.testing.assert_array_equal(again, row)


def test_missing_and_misshapen_tensors_are_named(t5_dir):
    path = t5_dir / "model.safetensors"
    tensors, wanted = safetensors.numpy.load_file(path), tensors_of(t5_dir)
    safetensors.numpy.save_file(tensors | {FINAL: np.ones(3, np.float32)}, path)
    with pytest.raises(UsageError, match=rf"{FINAL} is \[3\], config.json wants \[64\]"):
        Weights.open(str(t5_dir), wanted)
    del tensors[FINAL], tensors["shared.weight"]
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(UsageError, match=f"shared.weight, {FINAL} missing"):
        Weights.open(str(t5_dir), wanted)


def _damaged_index(text: str):
    return lambda folder, listed: (folder / INDEX).write_text(text)


def _placed(file: str):
    return lambda folder, listed: write_index(folder, listed | {FINAL: file}, 10**9)


DAMAGE = {
    "a file is missing": (
        lambda folder, listed: (folder / listed[FINAL]).unlink(),
        r"model-0000\d-of-00003.safetensors missing, which .* lists; fetch the rest",
    ),
    "a file is cut": (
        lambda folder, listed: (folder / listed["shared.weight"]).write_bytes(b"\x09"),
        "not a safetensors file",
    ),
    "a tensor is in no file": (
        lambda folder, listed: write_index(
            folder, {k: v for k, v in listed.items() if k != FINAL}, 10**9
        ),
        f"{FINAL} missing",
    ),
    "a tensor is not where the index says": (
        lambda folder, listed: write_index(
            folder,
            listed | {FINAL: next(f for f in listed.values() if f != listed[FINAL])},
            10**9,
        ),
        f"{FINAL} missing, which .* places there",
    ),
    "above the folder": (_placed("../model-00001-of-00003.safetensors"), "damaged index"),
    "an absolute path": (_placed("/etc/model.safetensors"), "damaged index"),
    "another machine": (_placed("gs://bucket/model.safetensors"), "damaged index"),
    "another format": (_placed("pytorch_model.bin"), "damaged index"),
    "too small a total": (
        lambda folder, listed: write_index(folder, listed, 17),
        "total_size is 17 bytes but the encoder alone has",
    ),
    "a total that is none": (
        lambda folder, listed: write_index(folder, listed, "much"),
        "damaged index",
    ),
    "not JSON": (_damaged_index("{"), "damaged index"),
    "deep": (_damaged_index("[" * 100_000), "damaged index"),
    "a list": (_damaged_index("[]"), "damaged index"),
    "no map": (_damaged_index("{}"), "damaged index"),
    "a map of lists": (_damaged_index('{"weight_map": {"a": []}}'), "damaged index"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_set_of_files_says_in_one_line_what_is_wrong(damage, t5_dir):
    do, says = DAMAGE[damage]
    do(t5_dir, shard(t5_dir))
    with pytest.raises(UsageError, match=says) as raised:
        check_directory(str(t5_dir))
    assert str(t5_dir) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_in_every_type(dtype, value, tmp_path):
    import ml_dtypes

    stored = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    tensors = {
        "large": np.full(6_000_001, 1.5, stored),  # of several blocks
        "extreme": np.array([1.0, -1.0, 0.0, 2.0**-14], stored),
    }
    shapes = {name: array.shape for name, array in tensors.items()}
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    Weights.open(str(tmp_path), shapes).digest()
    tensors["large"][-1] = value
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match="large has values that are not finite"):
        Weights.open(str(tmp_path), shapes).digest()


def test_a_file_that_shrinks_between_check_and_reading_is_an_error(t5_dir):
    weights = Directory.open(str(t5_dir)).weights
    path = t5_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="truncated"):
        weights.digest()
    with pytest.raises(UsageError, match="truncated"):
        list(weights.read())


@settings(max_examples=150)
@given(data=st.data())
def test_no_damage_to_the_header_is_a_crash(data, tmp_path_factory):
    """Whatever the header's bytes: a UsageError, or tensors that lie within the file."""
    folder = tmp_path_factory.getbasetemp() / "t5-header"
    if not folder.exists():
        write_tiny(folder)
        shutil.copy(folder / "model.safetensors", folder / "good")
    good = (folder / "good").read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, header - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(good), header, header - 9, 5]))
    (folder / "model.safetensors").write_bytes(damaged[:cut])
    try:
        weights = Weights.open(str(folder), tensors_of(folder))
    except UsageError:
        return
    assert all(header <= t.start <= t.stop <= len(good) for t in weights.tensors.values())


LOADS = """
import sys, jax
from pipelines.text import t5, sharding
from pipelines.text.config import T5Config
from pipelines.text.weights import Weights
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
folder = sys.argv[1]
config = T5Config.from_json(open(folder + "/config.json").read())
weights = Weights.open(folder, config.tensors())
jax.device_put(1.0).block_until_ready()
before = peak()
params = t5.load_params(weights, "float32", sharding.shardings(config, sharding.make_mesh(1, 1)))
print(peak() - before)
"""


def test_loading_holds_one_tensor_beside_the_weights(tmp_path):
    """XXL must not need twice its size: here 480 MB of weights, of which none has over 40 MB."""
    sizes = {"vocab_size": 4_096, "d_model": 1_024, "d_kv": 64, "d_ff": 10_240}
    config = {"model_type": "t5", "num_heads": 16, "num_layers": 5, **sizes}
    config |= {"feed_forward_proj": "relu"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    wanted = tensors_of(tmp_path)
    tensors = {name: np.ones(shape, np.float32) for name, shape in wanted.items()}
    megabytes = sum(value.nbytes for value in tensors.values()) / 1e6
    largest = max(value.nbytes for value in tensors.values()) / 1e6
    assert megabytes > 450 and largest < 45
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    del tensors
    run = subprocess.run(
        [sys.executable, "-c", LOADS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert megabytes < float(run.stdout) * 1.048576 < megabytes + 3 * largest
