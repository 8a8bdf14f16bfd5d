"""The parts of a step: the average's formula, action dropout, the keys, the pixels."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from schemas import UsageError
from tests.trainer import tiny_run as tiny
from trainer import configs
from trainer.configs.config import FREE, MIXTURE, TrainConfig, differences
from trainer.data import Embeddings, ExampleMaker, Sample, Table
from trainer.data.example import pad_tokens
from trainer.model.placement import ANYWHERE
from trainer.train import TrainState, ema_update, graph_of, init, train_step
from trainer.train.setup import example_spec, fitted
from trainer.train.step import (
    _loss_of,
    conditioning,
    dropped_action,
    keys_at,
    single_action,
    to_model,
    to_pixels,
)


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """A fitted config, its compiled step and first state, a batch, and the empty action."""

    config: TrainConfig
    step: Callable
    state: TrainState
    batch: dict[str, jax.Array]
    empty: tuple[jax.Array, jax.Array]


@pytest.fixture(scope="module")
def parts(tmp_path_factory, _compile_once):
    path = tiny.table(tmp_path_factory.mktemp("table"))
    table = Table(path)
    embeddings = Embeddings.of(table)
    config = fitted(tiny.CONFIG, embeddings)
    rows = [0, 2, *table.rows("train", "still")[:2]]  # a first row, a later one, images
    maker = ExampleMaker(table, embeddings, example_spec(config))
    batch = maker.batch([Sample(int(row), 0) for row in rows])
    tokens, mask = pad_tokens(embeddings.lookup(""), config.tokens)
    return Parts(
        config=config,
        step=jax.jit(train_step(config, graph_of(config.model))),
        state=jax.jit(lambda: init(config))(),
        batch=jax.tree.map(jnp.asarray, batch),
        empty=(jnp.asarray(tokens), jnp.asarray(mask)),
    )


def test_the_average_follows_its_formula():
    old, new = {"a": jnp.array([1.0, -2.0])}, {"a": jnp.array([3.0, 2.0])}
    np.testing.assert_allclose(ema_update(old, new, 0.75)["a"], [1.5, -1.0])
    ema = old
    for _ in range(50):
        ema = ema_update(ema, new, 0.9)
    np.testing.assert_allclose(ema["a"], 0.9**50 * old["a"] + (1 - 0.9**50) * new["a"], rtol=1e-5)


def test_a_step_moves_the_average_as_the_formula_says(parts):
    after, metrics = parts.step(parts.state, parts.batch, parts.empty)
    wanted = ema_update(parts.state.ema, after.params, parts.config.ema_decay)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.ema, wanted)
    assert after.step == 1 and np.isfinite(metrics["loss"])
    assert abs(metrics["loss"] - 1) < 0.3  # the untrained model predicts no noise at all


def test_a_batch_in_parts_has_the_gradient_of_all_its_real_frames(parts):
    """Each part weighs as many as it has real frames, and draws noise of its own."""
    config = dataclasses.replace(parts.config, accumulate=2)
    graph = graph_of(config.model)
    state = parts.step(parts.state, parts.batch, parts.empty)[0]  # the last layer begins at zero
    _, found = jax.jit(train_step(config, graph))(state, parts.batch, parts.empty)
    loss_of = jax.jit(jax.value_and_grad(_loss_of(config, graph, ANYWHERE)))
    keys, real = keys_at(config.seed, state.step), parts.batch["frame_mask"].sum()
    share, loss, grads = 0.0, 0.0, jax.tree.map(jnp.zeros_like, state.params)
    for i in range(2):
        piece = {name: value[i::2] for name, value in parts.batch.items()}
        share = piece["frame_mask"].sum() / real
        own = jnp.stack([jax.random.fold_in(key, i) for key in keys])
        its_loss, its_grads = loss_of(state.params, piece, parts.empty, own)
        loss += share * its_loss
        grads = jax.tree.map(lambda a, b, share=share: a + share * b, grads, its_grads)
    assert 0.1 < share < 0.9 and share != 0.5
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    with pytest.raises(UsageError, match="--accumulate 3 does not divide --batch-size 4"):
        tiny.config(accumulate=3)


def test_padding_and_masked_history_do_not_reach_the_loss(parts):
    batch, junk = parts.batch, dict(parts.batch)
    for name, mask in (("frames", "frame_mask"), ("history", "history_mask")):
        there = batch[mask][..., None, None, None]
        junk[name] = jnp.where(there, batch[name], 255)
        assert (junk[name] != batch[name]).any()
    state = parts.step(parts.state, batch, parts.empty)[0]  # the last layer begins at zero
    clean, dirty = (parts.step(state, b, parts.empty)[1]["loss"] for b in (batch, junk))
    assert clean == dirty


def test_action_dropout_keeps_the_history_and_takes_all_of_the_action(parts):
    cond, (tokens, mask) = conditioning(parts.batch), parts.empty
    key = jax.random.key(0)
    none = dropped_action(cond, key, 0.0, parts.empty)
    jax.tree.map(np.testing.assert_array_equal, none, cond)
    every = dropped_action(cond, key, 1.0, parts.empty)
    np.testing.assert_array_equal(every.history, cond.history)
    np.testing.assert_array_equal(every.history_mask, cond.history_mask)
    assert cond.history_mask.any() and cond.control_mask.any()
    assert not every.control_mask.any()
    for i in range(len(every.tokens)):
        np.testing.assert_array_equal(every.token_mask[i], mask)
        np.testing.assert_array_equal(every.tokens[i], tokens.astype(jnp.float32))


def test_action_dropout_drops_the_share_asked_for():
    keys = [keys_at(0, jnp.asarray(step))[0] for step in range(200)]
    dropped = np.mean([jax.random.bernoulli(key, 0.3, (16,)).mean() for key in keys])
    assert abs(dropped - 0.3) < 0.03


def test_a_share_of_the_actions_is_told_in_one_way_only(parts):
    """Evenly by text or by controls; one that has no controls keeps its text."""
    cond = jax.tree.map(lambda x: jnp.repeat(x, 200, 0), conditioning(parts.batch))
    moves = np.asarray(cond.control_mask).any(1)
    assert 0 < moves.mean() < 1
    found = single_action(cond, jax.random.key(0), 0.6, parts.empty)
    np.testing.assert_array_equal(found.history, cond.history)
    tokens, mask = (np.asarray(x, np.float32) for x in parts.empty)
    wordless = (np.asarray(found.tokens) == tokens).all((1, 2)) & (found.token_mask == mask).all(1)
    controlled = np.asarray((found.control_mask == cond.control_mask).all(1))
    np.testing.assert_array_equal(np.asarray(found.control_mask).any(1), controlled & moves)
    assert not wordless[~moves].any() and not (wordless & ~controlled).any()
    assert abs(wordless[moves].mean() - 0.3) < 0.06
    assert abs((~controlled[moves]).mean() - 0.3) < 0.06


def test_keys_are_a_function_of_seed_and_step():
    def bits(seed, step):
        return jax.random.key_data(keys_at(seed, jnp.asarray(step))).tolist()

    assert bits(1, 5) == bits(1, 5)
    drawn = [tuple(k) for pair in ((0, 0), (0, 1), (1, 0), (1, 1)) for k in bits(*pair)]
    assert len(set(drawn)) == 20


def test_pixels_come_back_from_the_models_range():
    pixels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 256, 1, 1).repeat(3, -1)
    values = to_model(pixels)
    assert values.min() == -1 and values.max() == 1
    np.testing.assert_array_equal(to_pixels(values), pixels)
    np.testing.assert_array_equal(to_pixels(values * 3)[0, [0, 255], 0, 0], [0, 255])


def test_absent_history_is_zero_in_the_models_range(parts):
    cond = conditioning(parts.batch)
    absent = ~np.asarray(cond.history_mask)
    assert absent.any() and not np.asarray(cond.history)[absent].any()


@pytest.mark.parametrize("name", configs.names())
def test_a_config_survives_its_file(name):
    config = configs.get(name)
    assert TrainConfig.from_dict(config.to_dict(), "here") == config
    assert differences(config.to_dict(), config.to_dict()) == []


def test_base_is_table_6():
    config = configs.get("base")
    m = config.model
    assert (m.channels, m.multipliers, m.blocks, m.cond_width) == (1024, (1, 2, 4), 3, 4096)
    assert dict(zip(m.attention, m.heads, strict=True)) == {0: 8, 1: 16, 2: 16}
    assert (m.cond_mlp_layers, m.dropout, m.history_frames) == (4, 0.1, 4)
    assert (config.batch_size, config.steps, config.tokens) == (256, 1_000_000, 64)
    assert (config.adam_b1, config.adam_b2, config.learning_rate) == (0.9, 0.99, 1e-4)
    assert (config.ema_decay, config.weight_decay, config.frames) == (0.9999, 0.0, 16)


def test_free_fields_are_no_difference_and_all_others_are():
    old = tiny.CONFIG.to_dict()
    for name, value in old.items():
        if isinstance(value, int | float):
            new = {**old, name: value + 1}
            assert bool(differences(old, new)) == (name not in (*FREE, *MIXTURE)), name


def test_senseless_values_and_unknown_names_are_refused():
    with pytest.raises(UsageError, match="--batch-size is 0, wanted 1 or more"):
        tiny.config(batch_size=0)
    with pytest.raises(UsageError, match=r"--action-dropout is 1.5, wanted 0..1"):
        tiny.config(action_dropout=1.5)
    with pytest.raises(UsageError, match="--tokens 3 have no room for the controls of 4 frames"):
        tiny.config(tokens=3)
    with pytest.raises(UsageError, match=r"--history single is one frame, but .* is 2; state 1"):
        tiny.config(history="single")
    with pytest.raises(UsageError, match="did you mean 'debug'"):
        configs.get("debgu")
    with pytest.raises(UsageError, match="not a config of this version"):
        TrainConfig.from_dict({**tiny.CONFIG.to_dict(), "nonsense": 1}, "here")
