"""`--config debug`, but for its batch size, learns one batch by heart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from trainer import configs
from trainer.data import Embeddings, ExampleMaker, Table, select
from trainer.data.example import pad_tokens
from trainer.data.fake import FakeSpec, write_fake_table
from trainer.diffusion import diffusion_loss
from trainer.train import graph_of, init, train_step
from trainer.train.setup import example_spec, fitted
from trainer.train.state import bind
from trainer.train.step import conditioning, to_model

_STEPS = 300


def test_it_drives_the_loss_on_one_batch_below_two_hundredths(tmp_path):
    """Of the average that simulates, over noise that training did not draw."""
    path = str(write_fake_table(tmp_path / "table", spec=FakeSpec()))
    table = Table(path)
    embeddings = Embeddings.of(table)
    debug = dataclasses.replace(configs.get("debug"), steps=_STEPS, batch_size=1)
    config = fitted(debug, embeddings)
    maker = ExampleMaker(table, embeddings, example_spec(config))
    batch = maker.batch([select(table, "train").by_dataset["moving"][0]])
    batch = jax.tree.map(jnp.asarray, batch)
    tokens, mask = pad_tokens(embeddings.lookup(""), config.tokens)
    graph, empty = graph_of(config.model), (jnp.asarray(tokens), jnp.asarray(mask))

    @jax.jit
    def loss(params, key):
        frames, cond = to_model(batch["frames"]), conditioning(batch)
        return diffusion_loss(bind(graph, params), config.schedule, frames, cond, key)

    def mean_loss(params) -> float:
        return float(np.mean([loss(params, key) for key in jax.random.split(jax.random.key(9), 8)]))

    step = jax.jit(train_step(config, graph), donate_argnums=0)
    state = jax.jit(lambda: init(config))()
    before = mean_loss(state.ema)
    for _ in range(_STEPS):
        state, _ = step(state, batch, empty)
    after = mean_loss(state.ema)
    print(f"loss {before:.3f} -> {after:.4f} after {_STEPS} steps")
    assert after < 0.02
    assert after < before / 2
