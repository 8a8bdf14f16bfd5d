"""`Setup`: a config that has met its table, before anything is compiled."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from schemas import UsageError
from schemas.table import dump_json
from trainer.configs.config import TrainConfig, check_weights
from trainer.data import (
    Embeddings,
    ExampleSpec,
    OrderSpec,
    Table,
    history_offsets,
    mixture,
)
from trainer.train.checkpoint import RunInfo
from trainer.train.sharding import Layout

CONFIG = "config.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a run is made of.

    Attributes:
        table, embeddings: what it learns from.
        layout: how it is spread over the devices.
        info: what its checkpoints say of it; its config has the width of the embeddings.
        shares: of each dataset in the samples, as of `mixture`.
    """

    table: Table
    embeddings: Embeddings
    layout: Layout
    info: RunInfo
    shares: dict[str, float]

    @property
    def config(self) -> TrainConfig:
        """The config, resolved."""
        return self.info.config

    def describe(self) -> list[str]:
        """Lines that say what is about to be learned from, and from what nothing will be."""
        table, config, encoder = self.table, self.config, self.info.encoder
        shares = self.shares
        rows = {name: len(table.rows("train", name)) for name in shares}
        drawn = config.steps * config.batch_size
        parts = [f"{name} {share:.0%}" for name, share in shares.items()]
        epochs = [f"{name} {share * drawn / rows[name]:.3g}" for name, share in shares.items()]
        total = len(table.rows("train"))
        lines = [
            f"table {table.path} {table.tier}: {total} samples; {', '.join(parts)}",
            f"epochs in {config.steps} steps: {', '.join(epochs)}",
        ]
        if left := [name for name in table.datasets if name not in shares]:
            lines.append(f"not in the mixture (no weight, or no rows in train): {', '.join(left)}")
        lines.append(f"text encoder {encoder.name}: {encoder.description}")
        longest = int(table.columns.num_frames.max(initial=0))
        if longest > config.frames + 1:
            lines.append(
                f"rows have up to {longest} frames; --frames {config.frames} leaves out their ends"
            )
        return lines

    def write(self, run: Path) -> None:
        """Writes `RUN/config.json`: what the checkpoints say too, and where the table was."""
        path = self.table.path
        found = path if "://" in path else str(Path(path).absolute())
        (run / CONFIG).write_text(dump_json(self.info.to_dict() | {"data": found}))


def set_up(config: TrainConfig, data: str, encoder: str | None = None) -> Setup:
    """Opens the table, and checks all that can be checked before anything is compiled.

    Args:
        data: a prepared table.
        encoder: name of the one whose embeddings are taken; None is the table's own.

    Raises:
        UsageError: if the table is not complete, has too little in it, or suits neither the config
            nor the devices.
    """
    table = Table(data, config.tier)
    embeddings = Embeddings(table.path, table.manifest.encoder(encoder))
    config = fitted(config, embeddings)
    config.model.check_frames(table.tier.height, table.tier.width)
    layout = Layout(model=config.model_axis)
    layout.check(config)
    check_weights(config.weights, table.datasets)
    shares = mixture(table, order_spec(config))
    info = RunInfo(config=config, encoder=embeddings.info, table=table.digest, fps=table.fps())
    return Setup(table=table, embeddings=embeddings, layout=layout, info=info, shares=shares)


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
