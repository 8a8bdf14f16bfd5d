"""`train`: a table in, checkpoints out."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from schemas import UsageError
from trainer.configs.config import TrainConfig
from trainer.data import EMPTY, batches, threads_for
from trainer.data.example import pad_tokens
from trainer.train.board import Board
from trainer.train.checkpoint import Checkpoints
from trainer.train.chips import utilisation
from trainer.train.damage import Damaged, writing
from trainer.train.goodput import Ledger, read_goodput
from trainer.train.guard import LossGuard
from trainer.train.metrics import MetricsLog, Progress, read_metrics, span
from trainer.train.preview import Preview
from trainer.train.setup import Say, Setup, set_up
from trainer.train.sharding import Layout
from trainer.train.state import TrainState, abstract, graph_of, init
from trainer.train.step import Metrics, train_step
from trainer.train.stop import Stop
from trainer.train.validation import VALIDATION, Validation

_AHEAD = 2  # steps that are begun before the values of the one before them are waited for


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What came of a run.

    Attributes:
        step: optimiser steps done, those before a resume included.
        first_loss, last_loss: means over the first and last tenth of all steps; NaN of none.
        rate: steps per second, compilation left out; 0 if nothing was left to do.
        stopped: whether SIGTERM ended it before its last step.
    """

    step: int
    first_loss: float
    last_loss: float
    rate: float
    stopped: bool = False


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
    accept_changes: bool = False,
    say: Say = say_on_stderr,
) -> TrainResult:
    """Trains until `config.steps`, from the run's last checkpoint if there is one.

    SIGTERM makes it save and return.

    Args:
        data: a prepared table, or several as one.
        out: the run's folder; gets `config.json`, `metrics.jsonl` and `checkpoints/`.
        encoder: name of the one whose embeddings are taken; None is the table's own.
        accept_changes: go on though config or table are not those that the run began with.
        say: takes a line of progress.

    Raises:
        UsageError: if the table is not complete or has too little in it, if `out` holds a run that
            differs, or if the loss is not finite any more or leaps.
    """
    setup = set_up(config, data, encoder, say)
    kept = {"keep": setup.config.keep, "keep_every": setup.config.keep_every}
    with writing(out), Stop() as stop, Checkpoints(out, **kept) as checkpoints:
        resumed = _resumed(checkpoints, setup, accept_changes, say)
        if resumed is None:
            shardings = setup.layout.of(abstract(setup.config))
            state = jax.jit(lambda: init(setup.config), out_shardings=shardings)()
        else:
            setup, state = resumed
            say(f"resuming {out} at step {setup.step}")
        for line in setup.describe():
            say(line)
        if jax.process_index() == 0:
            setup.write(out)
        with contextlib.closing(_Run(setup, checkpoints, out, say)) as run:
            step, rate = run.steps(state, stop)
    if step < setup.config.steps:
        say(f"stopped by SIGTERM: step {step} is saved in {out}; the same command goes on from it")
    return _result(out, step, rate, setup.config.steps, say)


def _resumed(
    checkpoints: Checkpoints, setup: Setup, accept_changes: bool, say: Say
) -> tuple[Setup, TrainState] | None:
    """The setup and state of the newest checkpoint that is whole; damaged ones are set aside.

    Raises:
        UsageError: if it is of a run that differs, or there are checkpoints but none is whole.
    """
    like, aside = setup.layout.shaped(abstract(setup.config)), []
    while (step := checkpoints.latest()) is not None:
        try:
            earlier = checkpoints.info(step)
            if found := setup.info.differences(earlier):
                _check_changes(found, abstract(earlier.config), like, accept_changes, checkpoints)
                say(f"going on with changes: {'; '.join(found)}")
            state, _ = checkpoints.restore(step, like)
            return setup.resumed(earlier, step), state
        except Damaged as e:
            aside.append(checkpoints.set_aside(step))
            say(f"WARNING: {e}; it is {aside[-1]} now")
    if aside:
        raise UsageError(
            f"{checkpoints.run}: none of its checkpoints is whole, they are"
            f" {', '.join(place.name for place in aside)} now; restore one from a copy, or train"
            " again into another --out"
        )
    return None


def _check_changes(
    found: list[str], old: TrainState, new: TrainState, accepted: bool, checkpoints: Checkpoints
) -> None:
    shapes = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (old, new)]
    what = f"{checkpoints.run}: holds a run that differs: {'; '.join(found)}. "
    if shapes[0] != shapes[1]:
        raise UsageError(what + "Its parameters have other shapes; give another --out")
    if not accepted:
        raise UsageError(
            what + "Resume it with the config and the table that began it, go on as it is now with"
            " --accept-changes, or give another --out"
        )


class _Run:
    """The inner loop, and what it needs at every step."""

    def __init__(self, setup: Setup, checkpoints: Checkpoints, out: Path, say: Say):
        self._setup, self._checkpoints, self._say = setup, checkpoints, say
        config, self._first = setup.config, setup.step
        self._log = MetricsLog(out, setup.step) if jax.process_index() == 0 else None
        self._board = Board(out, setup.step) if jax.process_index() == 0 else None
        self._guard = LossGuard(out, config.spike)
        self._ledger = Ledger(out, setup.step, write=jax.process_index() == 0)
        self._progress = Progress(
            first=setup.step, steps=config.steps, batch_size=config.batch_size
        )
        self._validation = Validation(setup) if config.validate_every else None
        self._validated = None
        if self._validation and jax.process_index() == 0:
            self._validated = MetricsLog(out, setup.step, VALIDATION)
        self._pending: collections.deque[tuple[int, Metrics]] = collections.deque()
        self._losses: list[float] = []
        self._saved = setup.step

    def steps(self, state: TrainState, stop: Stop) -> tuple[int, float]:
        """Runs steps until the last, or until asked to stop; returns how many are done, and the
        rate."""
        setup, config, step = self._setup, self._setup.config, self._first
        if step >= config.steps:
            return step, 0.0
        feed = _ahead(setup)
        empty = pad_tokens(setup.embeddings.lookup(EMPTY), config.tokens)
        empty = setup.layout.put_whole(empty)
        with self._ledger.spending("data"):
            batch = next(feed)
        with self._ledger.spending("compile"):
            run_step = _compiled(setup, state, batch, empty)
        preview = Preview(setup, empty) if config.sample_every else None
        peak_share = utilisation(run_step)
        if self._validation and (missing := self._validation.missing):
            self._say(f"nothing of {', '.join(missing)} is in split val, so it is not validated")
        with jax.transfer_guard("disallow"):
            while step < config.steps and not stop.at(step):
                state, metrics = run_step(state, batch, empty)
                step += 1
                self._pending.append((step, metrics))
                self._check(_AHEAD)
                if step < config.steps:
                    with self._ledger.spending("data"):
                        batch = next(feed)
                save = step % config.save_every == 0 or step == config.steps
                if save or step % config.log_every == 0 or step == self._first + 1:
                    self._check(0)
                    self._tell(step, peak_share)
                if save:
                    self._save(step, state)
                if self._validation and step % config.validate_every == 0:
                    self._validate(self._validation, step, state)
                if preview and step % config.sample_every == 0:
                    self._show(preview, step, state)
            if step > self._saved:  # stopped
                self._check(0)
                self._save(step, state)
        return step, self._progress.rate(step)

    def close(self) -> None:
        """Writes what is left of curves and videos."""
        if self._board:
            self._board.close()

    def _check(self, ahead: int) -> None:
        """Waits for the values of all but the last steps, and looks at them."""
        while len(self._pending) > ahead:
            step, metrics = self._pending.popleft()
            values = {name: float(value) for name, value in jax.device_get(metrics).items()}
            self._guard.check(step, values["loss"])
            if self._log and self._board:
                self._log.write(step, values)
                self._board.write(step, {f"train/{n}": value for n, value in values.items()})
            self._losses.append(values["loss"])

    def _tell(self, step: int, peak_share: float) -> None:
        self._setup.table.check_unchanged()
        loss, waited = float(np.mean(self._losses)), self._ledger.waited
        self._say(self._progress.line(step, loss, waited=waited, utilisation=peak_share))
        self._ledger.write(step)
        self._losses.clear()

    def _validate(self, validation: Validation, step: int, state: TrainState) -> None:
        with jax.transfer_guard("allow"), self._ledger.spending("validation"):
            found = validation.run(state.ema)
        if self._validated and self._board:
            self._validated.write(step, found)
            self._board.write(step, _curves(found))
        sources = ", ".join(f"{name} {loss:.4f}" for name, loss in found["by_source"].items())
        self._say(f"validation at step {step}: loss {found['loss']:.4f}; {sources}")

    def _show(self, preview: Preview, step: int, state: TrainState) -> None:
        with jax.transfer_guard("allow"), self._ledger.spending("validation"):
            pairs = preview.pairs(state.ema)
        if board := self._board:
            for pair in pairs:
                videos = {"what happened": pair.truth, "drawn": pair.drawn}
                name = f"samples/{pair.key}"
                board.write_video(step, name, videos, fps=pair.fps, text=pair.action)

    def _save(self, step: int, state: TrainState) -> None:
        self._setup.table.check_unchanged()  # else it would hold what was learned from another
        # the batch of a step is a function of the step, so its number is the place in the data
        with jax.transfer_guard("allow"), self._ledger.spending("checkpoint"):
            self._checkpoints.save(step, state, {"next_index": step}, self._setup.info)
        self._saved = step
        self._ledger.write(step)


def _curves(found: Mapping[str, Any]) -> dict[str, float]:
    """A validation's values, each by a name of its own."""
    curves = {"validation/loss": found["loss"]}
    for kind in ("by_source", "by_log_snr"):
        curves |= {f"validation/{kind}/{name}": loss for name, loss in found[kind].items()}
    return curves


def _ahead(setup: Setup) -> Iterator[dict[str, jax.Array]]:
    """The batches from the setup's step on, a few put on the devices before they are asked for."""
    iterator = batches(
        setup.maker,
        setup.order,
        places=setup.layout.places(setup.config.batch_size),
        threads=setup.config.read_threads or threads_for(setup.table.tier),
    )
    iterator.set_state({"next_index": setup.step})
    ready: collections.deque[dict[str, jax.Array]] = collections.deque()
    while True:
        while len(ready) < setup.config.prefetch:
            ready.append(setup.layout.put(next(iterator), setup.config.batch_size))
        yield ready.popleft()


def _compiled(setup: Setup, state: TrainState, batch: Mapping[str, Any], empty):
    """The training step, compiled."""
    layout: Layout = setup.layout
    step = jax.jit(
        train_step(setup.config, graph_of(setup.config.model), layout.placement),
        donate_argnums=0,
        out_shardings=(layout.of(abstract(setup.config)), layout.replicated),
    )
    return step.lower(state, batch, empty).compile()


def _result(out: Path, step: int, rate: float, steps: int, say: Say) -> TrainResult:
    losses = [line["loss"] for line in read_metrics(out)] or [float("nan")]
    tenth = max(1, len(losses) // 10)
    first, last = float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))
    stopped = step < steps
    if jax.process_index() == 0 and (spent := read_goodput(out)):
        say(f"goodput {spent.share:.0%} of {span(sum(spent.seconds.values()))}: `unisim goodput`")
    if not stopped:
        say(
            f"done: step {step}, loss {first:.4f} (mean of the first {tenth}) -> {last:.4f} (of the"
            f" last {tenth}), {rate:.3g} steps/s; run in {out}"
        )
    return TrainResult(step=step, first_loss=first, last_loss=last, rate=rate, stopped=stopped)
