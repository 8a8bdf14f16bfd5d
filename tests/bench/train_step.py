"""A training step of our U-Net beside one of video-diffusion-pytorch's, equal in parameters.

Both have width 64, multipliers 1, 2, 4, temporal attention at every level with 8 heads of 32, full
spatial attention over 6×10 pixels, fp32, Adam, 16 frames of 24×40, a batch of 2. What differs:

- the peer has two residual blocks at each level, down and up, and attention after the second; ours
  has one, and attention after each. The peer's up blocks are narrower.
- the peer's full spatial attention is in its middle; ours is in every block of the coarsest level.
  The peer has linear spatial attention at every level, which it can leave out; ours has none. A row
  each.
- ours attends to 64 tokens of text and controls and sees four frames of history; the peer, without
  text conditioning, has neither.
- our step also draws noise and keeps the moving average of the parameters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tests.bench.timing import Peer, Row, interleaved, progress
from trainer.configs.config import TrainConfig
from trainer.model import ModelConfig
from trainer.train.costs import costs
from trainer.train.state import graph_of, init
from trainer.train.step import train_step

PEER = "video-diffusion-pytorch"
_ROUNDS = 5
_TEXT = 64

CONFIG = TrainConfig(
    model=ModelConfig(
        channels=64,
        multipliers=(1, 2, 4),
        blocks=1,
        attention=(0, 1, 2),
        temporal_only=(0, 1),
        heads=(8, 8, 8),
        head_width=32,
        cond_width=128,
        cond_mlp_layers=2,
        control_width=128,
        text_width=_TEXT,
        norm_groups=8,
        dropout=0.0,
    ),
    tier="24x40",
    frames=16,
    tokens=64,
    batch_size=2,
    learning_rate=1e-4,
)


def rows(peer: Peer, threads: int) -> Iterator[Row]:
    """A row for the peer with linear attention, as it comes, and one without."""
    ours = OurStep(CONFIG)
    shape = (CONFIG.batch_size, CONFIG.frames, 24, 40)
    for linear in (True, False):
        made = peer.ask(library=PEER, linear=linear, threads=threads, shape=shape)
        progress(f"train step, {threads} threads: {_counts(ours.parameters, ours.flops)}")
        progress(f"  {PEER}, linear={linear}: {_counts(made['parameters'], made['flops'])}")
        theirs = PeerStep(peer)
        ours.own.clear()
        found = interleaved(_ROUNDS, {"ours": ours, "peer": theirs})
        own = [np.median(side.own[1:]) for side in (ours, theirs)]
        progress(f"  seconds of the cores' own: ours {own[0]:.2f}, its {own[1]:.2f}")
        progress(f"  its forward pass {np.median(theirs.forward[1:]):.2f} s")
        yield Row(
            "train step" + ("" if linear else ", peer without linear attention"),
            "vdp 0.7.0",
            f"{found['ours']:.2f} s",
            f"{found['peer']:.2f} s",
            f"{found['peer'] / found['ours']:.2f}x",
            f"{ours.flops / found['ours'] / 1e9:.0f} GFLOP/s",
            f"{made['flops'] / found['peer'] / 1e9:.0f} GFLOP/s",
        )


class OurStep:
    """Calls give the seconds of one step; what it has learned is the next one's start."""

    def __init__(self, config: TrainConfig):
        batch = {name: jnp.asarray(value) for name, value in random_batch(config).items()}
        empty = (jnp.zeros((config.tokens, _TEXT)), jnp.arange(config.tokens) < 1)
        self._state = jax.jit(lambda: init(config))()
        step = jax.jit(train_step(config, graph_of(config.model)), donate_argnums=0)
        self._step = step.lower(self._state, batch, empty).compile()
        self._inputs = (batch, empty)
        self.own: list[float] = []
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))
        self.flops = costs(self._step.as_text() or "").flops

    def __call__(self) -> float:
        start, own = time.perf_counter(), time.process_time()
        self._state, metrics = self._step(self._state, *self._inputs)
        assert np.isfinite(float(metrics["loss"]))
        self.own.append(time.process_time() - own)
        return time.perf_counter() - start


class PeerStep:
    """The same of the peer's."""

    def __init__(self, peer: Peer):
        self._peer = peer
        self.own: list[float] = []
        self.forward: list[float] = []

    def __call__(self) -> float:
        answer = self._peer.ask(library=PEER)
        self.own.append(answer["own"])
        self.forward.append(answer["forward"])
        return answer["seconds"]


def random_batch(config: TrainConfig) -> dict[str, np.ndarray]:
    """Noise for frames, everything present."""
    rng, b, model = np.random.default_rng(0), config.batch_size, config.model
    height, width = map(int, config.tier.split("x"))

    def frames(count: int) -> np.ndarray:
        return rng.integers(0, 256, (b, count, height, width, 3), dtype=np.uint8)

    return {
        "frames": frames(config.frames),
        "history": frames(model.history_frames),
        "history_mask": np.ones((b, model.history_frames), bool),
        "tokens": rng.normal(size=(b, config.tokens, model.text_width)).astype(np.float32),
        "token_mask": np.ones((b, config.tokens), bool),
        "controls": np.full((b, config.frames, model.control_slots), 2048, np.int32),
        "control_mask": np.ones((b, model.control_slots), bool),
        "frame_mask": np.ones((b, config.frames), bool),
    }


def _counts(parameters: int, flops: float) -> str:
    return f"{parameters / 1e6:.2f} M parameters, {flops / 1e9:.0f} GFLOP a step"
