"""`Checkpoints`: a run's state on disk, with the place in the data and what made it.

```
RUN/checkpoints/200/   params/  ema/  optimizer/  data/  run/     one folder per saved step
```

Orbax writes a checkpoint under a temporary name and renames it when it is whole, so that a save
that was cut short is never found again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from schemas import EncoderInfo, UsageError
from trainer.configs.config import TrainConfig, differences
from trainer.data import Era
from trainer.train.state import Params, TrainState, abstract

FOLDER = "checkpoints"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a run is made of; every checkpoint holds it.

    Attributes:
        config: of the run.
        encoder: what embedded the action texts.
        table: hex digest of the table, as `Table.digest`.
        fps: frame rate of the table's videos, the most common one.
        samples: hex digest of those that were selected of the table; empty if all were.
        eras: the mixture's history: which was drawn from which step on.
    """

    config: TrainConfig
    encoder: EncoderInfo
    table: str
    fps: float
    samples: str = ""
    eras: tuple[Era, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "config": self.config.to_dict(),
            "encoder": dataclasses.asdict(self.encoder),
            "table": self.table,
            "fps": self.fps,
            "samples": self.samples,
            "eras": [dataclasses.asdict(era) for era in self.eras],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> RunInfo:
        """The inverse. Raises UsageError if they are of another version of this program."""
        config = TrainConfig.from_dict(values["config"], where)
        return cls(
            config=config,
            encoder=EncoderInfo.from_dict(values["encoder"]),
            table=values["table"],
            fps=values["fps"],
            samples=values["samples"],
            eras=tuple(Era(**era) for era in values["eras"]),
        )

    def check_resumes(self, before: RunInfo, run: str) -> None:
        """Raises UsageError with the difference if this run cannot go on from `before`."""
        found = differences(before.config.to_dict(), self.config.to_dict())
        if not before.encoder.same_rows(self.encoder):
            found.append(f"text encoder {before.encoder.name} -> {self.encoder.name}")
        if before.table != self.table:
            found.append(f"table {before.table[:12]} -> {self.table[:12]}")
        elif before.samples != self.samples and not found:
            found.append("the records that --exclude rejects")
        if found:
            raise UsageError(
                f"{run}: holds a run that differs: {'; '.join(found)}. Resume it with the config"
                " and the table that began it, or give another --out"
            )


class Checkpoints:
    """The checkpoints of a run, oldest deleted beyond `keep`. Close it, or use it in `with`.

    Args:
        run: the run's folder.
        keep: how many checkpoints stay; None opens for reading alone.

    Raises:
        UsageError: if it is opened for reading and there is no checkpoint.
    """

    def __init__(self, run: Path, *, keep: int | None):
        self.run = run
        folder = run.absolute() / FOLDER
        if keep is None and not folder.is_dir():
            raise UsageError(f"{run}: has no {FOLDER}; make one with `unisim train --out {run}`")
        # on the CPU a saved array and the step's donated one can be the same memory, so there the
        # save must end before the next step begins
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=keep is not None,
            enable_async_checkpointing=jax.default_backend() != "cpu",
        )
        self._manager = ocp.CheckpointManager(folder, options=options)
        if keep is None and self.latest() is None:
            self.close()
            raise UsageError(
                f"{run}: has no complete checkpoint; make one with `unisim train --out {run}`"
            )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Waits for a save that is under way."""
        self._manager.close()

    def latest(self) -> int | None:
        """The last step that was saved whole, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict[str, Any], info: RunInfo) -> None:
        """Saves all of them under one step, or nothing.

        Args:
            data: the data iterator's state, JSON values.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                ema=ocp.args.StandardSave(state.ema),
                optimizer=ocp.args.StandardSave({"step": state.step, "state": state.optimizer}),
                data=ocp.args.JsonSave(data),
                run=ocp.args.JsonSave(info.to_dict()),
            ),
        )

    def info(self, step: int) -> RunInfo:
        """What made a checkpoint. Raises UsageError if another version of this program did."""
        found = self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))
        return RunInfo.from_dict(found["run"], f"{self.run}/{FOLDER}/{step}")

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """A checkpoint's state and data iterator's state.

        Args:
            like: shapes, types and shardings, as of `state.abstract`.
        """
        wanted = {"step": like.step, "state": like.optimizer}
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(like.params),
                ema=ocp.args.StandardRestore(like.ema),
                optimizer=ocp.args.StandardRestore(wanted),
                data=ocp.args.JsonRestore(),
            ),
        )
        state = TrainState(
            step=found["optimizer"]["step"],
            params=found["params"],
            ema=found["ema"],
            optimizer=found["optimizer"]["state"],
        )
        return state, found["data"]

    def ema(self, step: int, config: TrainConfig) -> Params:
        """A checkpoint's averaged parameters alone: a quarter of its bytes."""
        wanted = ocp.args.StandardRestore(abstract(config).ema)
        return self._manager.restore(step, args=ocp.args.Composite(ema=wanted))["ema"]
