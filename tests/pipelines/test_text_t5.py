"""The tokenizer and the T5 encoder against the reference implementation's own output."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jaxtyping import install_import_hook

from pipelines.text import sharding
from pipelines.text.config import T5Config
from pipelines.text.tiny import write_tiny
from pipelines.text.tokenizer import Tokenizer
from pipelines.text.weights import Weights
from schemas import UsageError
from tests.samples import sample

MODELS = ["t5/tiny-v1.0", "t5/tiny-v1.1"]
TINY = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 99}


@pytest.fixture(scope="module")
def t5():
    """pipelines.text.t5 with the shapes in its signatures checked at run time."""
    name = "pipelines.text.t5"
    kept = sys.modules.pop(name, None)
    with install_import_hook(name, "beartype.beartype"):
        module = importlib.import_module(name)
    yield module
    sys.modules.pop(name)
    if kept is not None:
        sys.modules[name] = kept


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(sample("t5/vocabulary/spiece.model").read_bytes())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("t5-tiny")
    write_tiny(folder)
    return folder


def config_of(folder: Path) -> T5Config:
    return T5Config.from_json((folder / "config.json").read_bytes())


def load(t5, folder: Path, compute: str = "float32") -> dict:
    config = config_of(folder)
    weights = Weights.open(str(folder), config.tensors())
    return t5.load_params(weights, compute, sharding.shardings(config, sharding.make_mesh(1, 1)))


def reference(model: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The reference's ids `[n, l]`, real tokens of each, and states of the real tokens alone."""
    found = np.load(sample(model) / "expected.npz", allow_pickle=False)
    mask = found["attention_mask"].astype(bool)
    return found["input_ids"].astype(np.int32), mask, found["last_hidden_state"][mask]


@pytest.mark.parametrize("model", MODELS)
def test_ids_and_states_are_the_reference_s(model, t5, tokenizer):
    folder = sample(model)
    expected = np.load(folder / "expected.npz", allow_pickle=False)
    mask = expected["attention_mask"].astype(bool)
    ids, lengths, truncated = tokenizer.encode(expected["texts"].tolist())

    width = mask.shape[1]
    np.testing.assert_array_equal(ids[:, :width], expected["input_ids"])
    assert not ids[:, width:].any() and not truncated.any()
    np.testing.assert_array_equal(lengths, mask.sum(1))

    config = config_of(folder)
    states = np.asarray(t5.encode(load(t5, folder), ids, lengths, config))
    assert states.dtype == np.float32 and states.shape == (len(ids), 64, config.d_model)
    wanted = expected["last_hidden_state"][mask]
    np.testing.assert_allclose(states[:, :width][mask], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_bfloat16_is_near_the_reference_and_is_not_float32(model, t5):
    """Cosine per token, as it will be attended to."""
    ids, mask, wanted = reference(model)
    lengths = mask.sum(1).astype(np.int32)
    folder = sample(model)
    params = load(t5, folder, "bfloat16")
    matrices = {str(p.dtype) for name, p in params.items() if p.ndim == 2 and "bias" not in name}
    assert matrices == {"bfloat16"}
    found = np.asarray(t5.encode(params, ids, lengths, config_of(folder), "bfloat16"))[mask]
    assert found.dtype == np.float32 and np.abs(found - wanted).max() > 1e-4
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert ((found * wanted).sum(1) / norms).min() >= 0.9995


def test_the_shape_check_of_these_tests_is_on(t5, tiny):
    config = config_of(tiny)
    with pytest.raises(Exception, match="ids"):
        t5.encode(load(t5, tiny), np.zeros(3, np.int32), np.ones(3, np.int32), config)


def test_padding_changes_nothing_and_every_real_token_counts(t5, tiny):
    config = config_of(tiny)
    params = load(t5, tiny)
    ids = np.random.default_rng(0).integers(3, 200, (4, 16)).astype(np.int32)
    lengths = np.array([3, 5, 16, 1], np.int32)
    real = np.arange(16) < lengths[:, None]
    states = np.asarray(t5.encode(params, ids, lengths, config))
    assert np.isfinite(states).all()
    other_padding = np.asarray(t5.encode(params, np.where(real, ids, 7), lengths, config))
    np.testing.assert_array_equal(states[real], other_padding[real])
    changed = ids.copy()
    changed[0, 2] += 1  # the last real token of the first row
    moved = np.asarray(t5.encode(params, changed, lengths, config)) != states
    assert moved[0, :3].any(axis=1).all(), "every real token attends to every other"
    assert not moved[1:].any(), "and to no other row's"


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64])
def test_weights_of_every_float_type_are_read(dtype, t5, tiny, tmp_path):
    """The states are those of the same values in float32: nothing is lost on the way."""
    shutil.copytree(tiny, tmp_path, dirs_exist_ok=True)
    config = config_of(tmp_path)
    stored = {
        name: value.astype(dtype)
        for name, value in safetensors.numpy.load_file(tiny / "model.safetensors").items()
    }
    safetensors.numpy.save_file(stored, tmp_path / "model.safetensors")
    params = load(t5, tmp_path)
    if dtype != np.float64:
        assert {str(p.dtype) for p in params.values()} == {np.dtype(dtype).name}
    widened = {name: value.astype(np.float32) for name, value in stored.items()}
    ids, lengths = np.array([[5, 6, 1]], np.int32), np.array([3], np.int32)
    np.testing.assert_array_equal(
        t5.encode(params, ids, lengths, config), t5.encode(widened, ids, lengths, config)
    )


def test_buckets_of_relative_positions(t5):
    buckets = t5.relative_buckets(300, T5Config(**TINY, activation="relu", gated=False))
    # one distance each below 8, then the powers 8 * 16**(k / 8), rounded up; 16 on for later keys
    first = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91]
    wanted = np.searchsorted(first, np.arange(300), side="right") - 1
    np.testing.assert_array_equal(buckets[:, 0], wanted)
    np.testing.assert_array_equal(buckets[0, 1:], wanted[1:] + 16)
    np.testing.assert_array_equal(buckets[1:, 1:], buckets[:-1, :-1])


@pytest.mark.parametrize(
    ("settings", "activation", "gated"),
    [
        ({}, "relu", False),  # t5-small as published in 2019
        ({"feed_forward_proj": "relu"}, "relu", False),
        ({"feed_forward_proj": "gated-gelu"}, "gelu_tanh", True),  # v1.1 and Flan
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new"}, "gelu_tanh", True),
        ({"dense_act_fn": "gelu_pytorch_tanh", "is_gated_act": True}, "gelu_tanh", True),
    ],
)
def test_every_generation_of_config_is_understood(settings, activation, gated):
    config = T5Config.from_json(json.dumps({"model_type": "t5", **TINY, **settings}))
    assert (config.activation, config.gated) == (activation, gated)
    assert config.relative_attention_max_distance == 128


def test_the_real_xxl_configuration():
    config = T5Config.from_json(sample("t5/t5_v1_1_xxl_config.json").read_bytes())
    assert (config.d_model, config.d_inner, config.num_layers, config.gated) == (
        4096,
        4096,
        24,
        True,
    )
    # the encoder's half of 11 B parameters
    assert sum(np.prod(shape) for shape in config.tensors().values()) == 4_762_310_656


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"d_model": 0}, "d_model is 0"),
        ({"d_kv": "64"}, "d_kv is '64'"),
        ({"num_heads": True}, "num_heads is True"),
        ({"num_layers": 5000}, "num_layers is 5000"),
        ({"feed_forward_proj": "gated-gelo"}, "did you mean 'gated-gelu'"),
        ({"dense_act_fn": "swish"}, "dense_act_fn is 'swish'"),
        ({"feed_forward_proj": "relu", "is_gated_act": True}, "is_gated_act is True"),
        ({"relative_attention_num_buckets": 30}, "num_buckets 30"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon is -1"),
        ({"eos_token_id": 2}, "eos_token_id is 2"),
    ],
)
def test_a_bad_config_says_what_is_wrong(settings, says):
    with pytest.raises(UsageError, match=says):
        T5Config.from_json(json.dumps({"model_type": "t5", **TINY, **settings}))


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "null", '{"model_type": "t5"'])
def test_a_config_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match=r"config\.json: "):
        T5Config.from_json(text)
