"""`train`: a table in, checkpoints out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from schemas import UsageError
from trainer.configs.config import TrainConfig
from trainer.data import EMPTY, Embeddings, batches
from trainer.data.example import pad_tokens
from trainer.train.checkpoint import Checkpoints, RunInfo
from trainer.train.metrics import MetricsLog, Progress, read_metrics
from trainer.train.setup import set_up
from trainer.train.sharding import Layout
from trainer.train.state import abstract, graph_of, init
from trainer.train.step import train_step

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What came of a run.

    Attributes:
        step: optimiser steps done, those before a resume included.
        first_loss, last_loss: means over the first and last tenth of all steps.
        rate: steps per second, compilation left out; 0 if nothing was left to do.
    """

    step: int
    first_loss: float
    last_loss: float
    rate: float


def say_on_stderr(line: str) -> None:
    """Prints a line, in one process of many."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def train(
    config: TrainConfig,
    *,
    data: str | Sequence[str],
    out: Path,
    encoder: str | None = None,
    say: Say = say_on_stderr,
) -> TrainResult:
    """Trains until `config.steps`, from the run's last checkpoint if there is one.

    Args:
        data: a prepared table, or several as one.
        out: the run's folder; gets `config.json`, `metrics.jsonl` and `checkpoints/`.
        encoder: name of the one whose embeddings are taken; None is the table's own.
        say: takes a line of progress.

    Raises:
        UsageError: if the table is not complete or has too little in it, if `out` holds a run that
            differs, or if the loss is not finite any more.
    """
    setup = set_up(config, data, encoder)
    config, layout = setup.config, setup.layout
    with Checkpoints(out, keep=config.keep) as checkpoints:
        before = checkpoints.latest()
        if before is not None:
            earlier = checkpoints.info(before)
            setup.info.check_resumes(earlier, str(out))
            setup = setup.resumed(earlier, before)
        for line in setup.describe():
            say(line)
        iterator = batches(
            setup.maker,
            setup.order,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            threads=config.read_threads,
        )
        if before is None:
            state = jax.jit(lambda: init(config), out_shardings=layout.of(abstract(config)))()
        else:
            state, place = checkpoints.restore(before, layout.shaped(abstract(config)))
            iterator.set_state(place)
            say(f"resuming {out} at step {before}")
        setup.write(out)
        run = _Run(config, layout, checkpoints, setup.info, out, say)
        rate = run.steps(state, iterator, run.empty(setup.embeddings), before or 0)
    return _result(out, config.steps, rate, say)


class _Run:
    """The inner loop, and what it needs at every step."""

    def __init__(
        self,
        config: TrainConfig,
        layout: Layout,
        checkpoints: Checkpoints,
        info: RunInfo,
        out: Path,
        say: Say,
    ):
        self._config, self._layout, self._checkpoints = config, layout, checkpoints
        self._info, self._out, self._say = info, out, say
        shardings = (layout.of(abstract(config)), layout.replicated)
        self._step = jax.jit(
            train_step(config, graph_of(config.model), layout.placement),
            donate_argnums=0,
            out_shardings=shardings,
        )

    def empty(self, embeddings: Embeddings):
        return self._layout.put_whole(pad_tokens(embeddings.lookup(EMPTY), self._config.tokens))

    def steps(self, state, iterator, empty, first: int) -> float:
        """Runs steps `first` to the last; returns the rate."""
        config = self._config
        log = MetricsLog(self._out, first) if jax.process_index() == 0 else None
        progress = Progress(first=first, steps=config.steps, batch_size=config.batch_size)
        pending = []
        for step in range(first + 1, config.steps + 1):
            batch = self._layout.put(next(iterator))
            state, metrics = self._step(state, batch, empty)
            # values are fetched rarely: asking for one waits for the device
            pending.append((step, metrics))
            save = step % config.save_every == 0 or step == config.steps
            if save or step % config.log_every == 0 or step == first + 1:
                losses = self._flush(pending, log)
                self._say(progress.line(step, float(np.mean(losses))))
                pending.clear()
            if save:
                self._checkpoints.save(step, state, iterator.get_state(), self._info)
        return progress.rate(config.steps)

    def _flush(self, pending: list, log: MetricsLog | None) -> list[float]:
        losses = []
        for step, metrics in pending:
            values = {name: float(value) for name, value in metrics.items()}
            if not np.isfinite(values["loss"]):
                raise UsageError(
                    f"{self._out}: the loss is {values['loss']} at step {step} (its samples:"
                    f" `unisim why --run {self._out} --step {step - 1}`); train again into another"
                    " --out with a lower --learning-rate or with --clip-norm 1"
                )
            if log:
                log.write(step, values)
            losses.append(values["loss"])
        return losses


def _result(out: Path, steps: int, rate: float, say: Say) -> TrainResult:
    losses = [line["loss"] for line in read_metrics(out)]
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    result = TrainResult(step=steps, first_loss=first, last_loss=last, rate=rate)
    say(
        f"done: step {steps}, loss {first:.4f} (mean of the first {tenth}) -> {last:.4f} (of the"
        f" last {tenth}), {rate:.3g} steps/s; run in {out}"
    )
    return result
