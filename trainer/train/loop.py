"""`train`: a table in, checkpoints out."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from schemas import UsageError
from schemas.table import dump_json
from trainer.configs.config import TrainConfig, check_weights
from trainer.data import (
    EMPTY,
    Embeddings,
    ExampleMaker,
    ExampleSpec,
    OrderSpec,
    Table,
    batches,
    history_offsets,
    mixture,
)
from trainer.data.example import pad_tokens
from trainer.train.checkpoint import Checkpoints, RunInfo
from trainer.train.metrics import MetricsLog, Progress, read_metrics
from trainer.train.sharding import Layout
from trainer.train.state import abstract, graph_of, init
from trainer.train.step import train_step

CONFIG = "config.json"
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
    data: str,
    out: Path,
    encoder: str | None = None,
    say: Say = say_on_stderr,
) -> TrainResult:
    """Trains until `config.steps`, from the run's last checkpoint if there is one.

    Args:
        data: a prepared table.
        out: the run's folder; gets `config.json`, `metrics.jsonl` and `checkpoints/`.
        encoder: name of the one whose embeddings are taken; None is the table's own.
        say: takes a line of progress.

    Raises:
        UsageError: if the table is not complete or has too little in it, if `out` holds a run that
            differs, or if the loss is not finite any more.
    """
    table = Table(data, config.tier)
    embeddings = Embeddings(table.path, table.manifest.encoder(encoder))
    config = fitted(config, embeddings)
    config.model.check_frames(table.tier.height, table.tier.width)
    layout = Layout(model=config.model_axis)
    layout.check(config)
    maker, order = ExampleMaker(table, embeddings, example_spec(config)), order_spec(config)
    check_weights(config.weights, table.datasets)
    info = RunInfo(config=config, encoder=embeddings.info, table=table.digest, fps=table.fps())
    _describe(table, info, say)
    with Checkpoints(out, keep=config.keep) as checkpoints:
        before = checkpoints.latest()
        if before is not None:
            info.check_resumes(checkpoints.info(before), str(out))
        iterator = batches(
            maker,
            order,
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
        (out / CONFIG).write_text(dump_json(info.to_dict() | {"data": _absolute(data)}))
        run = _Run(config, layout, checkpoints, info, out, say)
        rate = run.steps(state, iterator, run.empty(embeddings), before or 0)
    return _result(out, config.steps, rate, say)


def trained_on(run: Path, data: str | None = None) -> tuple[RunInfo, Table]:
    """What a run is made of, and its table.

    Args:
        run: its folder.
        data: where the table is now; None is where the run found it.

    Raises:
        UsageError: if there is no run, or the table is another by now.
    """
    path = run / CONFIG
    try:
        values = json.loads(path.read_text())
        info, found = RunInfo.from_dict(values, str(path)), str(values["data"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UsageError(
            f"{path}: cannot be read ({type(e).__name__}: {e}); wanted the --out of `unisim train`"
        ) from e
    table = Table(data or found, info.config.tier)
    if table.digest != info.table:
        raise UsageError(
            f"{table.path}: is not the table that {run} was trained on (digest {table.digest[:12]},"
            f" wanted {info.table[:12]}); name that with --data"
        )
    return info, table


def _absolute(data: str) -> str:
    """A local folder's full path, so that it is found from elsewhere too; a URI as it is."""
    return data if "://" in data else str(Path(data).absolute())


def fitted(config: TrainConfig, embeddings: Embeddings) -> TrainConfig:
    """The config with the width of the table's text encoder.

    Raises:
        UsageError: if the config states another.
    """
    stated, found = config.model.text_width, embeddings.info.width
    if stated not in (0, found):
        raise UsageError(
            f"text encoder {embeddings.info.name}: its embeddings are {found} wide, but"
            f" --model.text-width is {stated}; choose another --encoder, or state 0 to take any"
        )
    model = dataclasses.replace(config.model, text_width=embeddings.info.width)
    return dataclasses.replace(config, model=model)


def example_spec(config: TrainConfig) -> ExampleSpec:
    """The shape of the examples that a config trains on."""
    return ExampleSpec(
        frames=config.frames,
        history=history_offsets(config.history, config.model.history_frames),
        tokens=config.tokens,
    )


def order_spec(config: TrainConfig) -> OrderSpec:
    """The order of the samples that a config trains on."""
    return OrderSpec(
        split="train", weights=config.weights, batch_size=config.batch_size, seed=config.seed
    )


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


def _describe(table: Table, info: RunInfo, say: Say) -> None:
    """Lines that say what is about to be learned from, and from what nothing will be."""
    config = info.config
    shares = mixture(table, order_spec(config))
    parts = [f"{name} {share:.0%}" for name, share in shares.items()]
    say(f"table {table.path} {table.tier}: {len(table.rows('train'))} samples; {', '.join(parts)}")
    drawn = config.steps * config.batch_size
    rows = {name: len(table.rows("train", name)) for name in shares}
    epochs = [f"{name} {share * drawn / rows[name]:.3g}" for name, share in shares.items()]
    say(f"epochs in {config.steps} steps: {', '.join(epochs)}")
    if left := [name for name in table.datasets if name not in shares]:
        say(f"not in the mixture (no weight, or no rows in train): {', '.join(left)}")
    say(f"text encoder {info.encoder.name}: {info.encoder.description}")
    longest = int(table.columns.num_frames.max(initial=0))
    if longest > config.frames + 1:
        say(f"rows have up to {longest} frames; --frames {config.frames} leaves out their ends")


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
