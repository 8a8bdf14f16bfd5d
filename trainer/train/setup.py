"""`Setup`: a config that has met its table, before anything is compiled."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from schemas import MAX_FRAMES, UsageError
from schemas.table import dump_json
from trainer.configs.config import TrainConfig, check_weights
from trainer.data import (
    Embeddings,
    ExampleMaker,
    ExampleSpec,
    Order,
    OrderSpec,
    Samples,
    Table,
    begin,
    go_on,
    history_offsets,
    select,
)
from trainer.train.checkpoint import RunInfo
from trainer.train.metrics import Paced
from trainer.train.sharding import Layout

CONFIG = "config.json"
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run is made of.

    Attributes:
        table, embeddings, samples: what it learns from.
        held_out: what it is tried on: split "val", if anything asks for it, else nothing.
        layout: how it is spread over the devices.
        info: what its checkpoints say of it; its config has the width of the embeddings.
        step: optimiser steps that are done.
    """

    table: Table
    embeddings: Embeddings
    samples: Samples
    held_out: Samples
    layout: Layout
    info: RunInfo
    step: int = 0

    @property
    def config(self) -> TrainConfig:
        """The config, resolved."""
        return self.info.config

    @property
    def order(self) -> Order:
        """Of the samples."""
        return Order(self.samples, self.info.eras)

    @property
    def maker(self) -> ExampleMaker:
        """Of the samples' examples."""
        spec = example_spec(self.config)
        return ExampleMaker(self.table, self.embeddings, spec, self.samples.rejected)

    def resumed(self, before: RunInfo, step: int) -> Setup:
        """The setup of a run that goes on at a step: with the mixture's history until then."""
        now = (self.info.table, self.info.samples)
        changed = now != (before.table, before.samples)
        spec = order_spec(self.config)
        eras = go_on(before.eras, step, self.samples, spec, changed=changed)
        info = dataclasses.replace(self.info, eras=eras)
        return dataclasses.replace(self, info=info, step=step)

    def describe(self) -> list[str]:
        """Lines that say what is about to be learned from, and from what nothing will be."""
        table, config, era = self.table, self.config, self.info.eras[-1]
        shares = era.shares()
        counts = {name: len(samples) for name, samples in self.samples.by_dataset.items()}
        given = era.drawn_at(config.steps)
        epochs = [f"{name} {given[name] / counts[name]:.3g}" for name in shares]
        hot = f" (temperature {config.temperature:g})" if config.temperature != 1 else ""
        lines = [
            f"table {table.path} {table.tier}: {sum(counts.values())} samples;"
            f" {_percent(shares)}{hot}",
            f"epochs in {config.steps} steps: {', '.join(epochs)}",
        ]
        if len(self.info.eras) > 1 and self.step == era.step:
            was = self.info.eras[-2].shares()
            lines.insert(1, "the mixture until now: " + _percent(was))
        if left := [name for name in table.datasets if name not in shares]:
            lines.append(f"not in the mixture (no weight, or no samples): {', '.join(left)}")
        if absent := [name for name in config.weights if name not in table.datasets]:
            lines.append(f"weights of datasets that the table lacks: {', '.join(absent)}")
        if self.samples.rejected:
            lines.append(f"{len(self.samples.rejected)} rejected records are left out")
        lines.append(f"text encoder {self.info.encoder.name}: {self.info.encoder.description}")
        if config.frames + 1 < MAX_FRAMES and config.windows == "actions":
            lines.append(f"--frames {config.frames} leaves out the ends of longer rows")
        return lines

    def write(self, run: Path) -> None:
        """Writes `RUN/config.json`: what the checkpoints say too, and where the table was."""
        found = [path if "://" in path else str(Path(path).absolute()) for path in self.table.paths]
        text = dump_json(self.info.to_dict() | {"data": found})
        temporary = (run / CONFIG).with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(run / CONFIG)


def _percent(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def set_up(
    config: TrainConfig,
    data: str | Sequence[str],
    encoder: str | None = None,
    say: Say = lambda _: None,
) -> Setup:
    """Opens the table, and checks all that can be checked before anything is compiled.

    Args:
        data: a prepared table, or several as one.
        encoder: name of the one whose embeddings are taken; None is the table's own.
        say: takes a line of progress.

    Raises:
        UsageError: if the table is not complete, has too little in it, or suits neither the config
            nor the devices.
    """
    table = Table(data, config.tier)
    embeddings = Embeddings.of(table, encoder)
    config = fitted(config, embeddings)
    config.model.check_frames(table.tier.height, table.tier.width)
    layout = Layout(model=config.model_axis)
    layout.check(config)
    check_weights(config.weights, table.datasets)
    samples = _select(table, config, "train", say)
    info = RunInfo(
        config=config,
        encoder=embeddings.info,
        table=table.digest,
        fps=table.fps(),
        samples=samples.digest,
        eras=(begin(samples, order_spec(config)),),
    )
    return Setup(
        table=table,
        embeddings=embeddings,
        samples=samples,
        held_out=_held_out(table, config, say),
        layout=layout,
        info=info,
    )


def trained_on(
    run: Path, data: Sequence[str] = (), say: Say = lambda _: None
) -> tuple[RunInfo, Table, Order]:
    """What a run is made of, its table, and the order of its samples.

    Args:
        run: its folder.
        data: where the table is now; empty is where the run found it.
        say: takes a line of progress.

    Raises:
        UsageError: if there is no run, or the table is another by now.
    """
    path = run / CONFIG
    try:
        values = json.loads(path.read_text())
        info, found = RunInfo.from_dict(values, str(path)), list(map(str, values["data"]))
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
    samples = _select(table, info.config, "train", say)
    if samples.digest != info.samples:
        raise UsageError(
            f"{info.config.exclude or table.path}: does not leave the samples that {run} was"
            " trained on; restore what --exclude named, and the table's index"
        )
    return info, table, Order(samples, info.eras)


def _select(table: Table, config: TrainConfig, split: str, say: Say) -> Samples:
    shards = sum(span.dataset.num_shards for span in table.spans_of(split))
    return select(
        table,
        split,
        windows=config.windows,
        where=config.where,
        exclude=config.exclude,
        watch=Paced("reading the index", shards * (2 if config.exclude else 1), "files", say),
    )


def _held_out(table: Table, config: TrainConfig, say: Say) -> Samples:
    if not (config.validate_every or config.sample_every):
        return Samples(by_dataset={})
    found = _select(table, config, "val", say)
    if not found.by_dataset:
        flag = "--validate-every" if config.validate_every else "--sample-every"
        raise UsageError(
            f"{table.path}: has nothing in split val to choose from, which {flag} wants; leave that"
            " out, widen --where, or prepare more episodes"
        )
    return found


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
        windows=config.windows,
    )


def order_spec(config: TrainConfig) -> OrderSpec:
    """The order of the samples that a config trains on."""
    return OrderSpec(
        weights=config.weights,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
    )
