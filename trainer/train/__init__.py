"""A table in, checkpoints out: state, step, loop, checkpoints."""

from trainer.train.checkpoint import Checkpoints, RunInfo
from trainer.train.loop import TrainResult, say_on_stderr, train
from trainer.train.setup import Setup, set_up
from trainer.train.state import TrainState, abstract, ema_update, graph_of, init
from trainer.train.step import train_step

__all__ = [
    "Checkpoints",
    "RunInfo",
    "Setup",
    "TrainResult",
    "TrainState",
    "abstract",
    "ema_update",
    "graph_of",
    "init",
    "say_on_stderr",
    "set_up",
    "train",
    "train_step",
]
