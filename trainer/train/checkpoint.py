"""`Checkpoints`: a run's state on disk, with the place in the data and what made it.

```
RUN/checkpoints/200/   params/  ema/  optimizer/  data/  run/  checksums/    one folder per step
```

Orbax writes a checkpoint under a temporary name and renames it when it is whole, so that a save
that was cut short is never found again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNSteps,
    LatestN,
    PreservationPolicy,
)

from schemas import EncoderInfo, UsageError
from trainer.configs.config import TrainConfig, differences
from trainer.data import Era
from trainer.train.checksum import checksums, damaged
from trainer.train.damage import Damaged, reading
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

    def differences(self, before: RunInfo) -> list[str]:
        """What this run would do differently than `before`, "batch_size 8 -> 16"."""
        found = differences(before.config.to_dict(), self.config.to_dict())
        if not before.encoder.same_rows(self.encoder):
            found.append(f"text encoder {before.encoder.name} -> {self.encoder.name}")
        if before.table != self.table:
            found.append(f"table {before.table[:12]} -> {self.table[:12]}")
        elif before.samples != self.samples and not found:
            found.append("the records that --exclude rejects")
        return found


class Checkpoints:
    """The checkpoints of a run, oldest deleted beyond `keep`. Close it, or use it in `with`.

    Args:
        run: the run's folder.
        keep: how many checkpoints stay; None opens for reading alone.
        keep_every: checkpoints of steps that are multiples of it stay too; 0 is none.

    Raises:
        UsageError: if it is opened for reading and there is no checkpoint.
    """

    def __init__(self, run: Path, *, keep: int | None, keep_every: int = 0):
        self.run = run
        self._folder = run.absolute() / FOLDER
        if keep is None and not self._folder.is_dir():
            raise UsageError(f"{run}: has no {FOLDER}; make one with `unisim train --out {run}`")
        kept: list[PreservationPolicy] = [LatestN(n=keep)]
        if keep_every:
            kept.append(EveryNSteps(keep_every))
        # on the CPU a saved array and the step's donated one can be the same memory, so there the
        # save must end before the next step begins
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(kept),
            create=keep is not None,
            enable_async_checkpointing=jax.default_backend() != "cpu",
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
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
                checksums=ocp.args.JsonSave(checksums(state)),
            ),
        )

    def info(self, step: int) -> RunInfo:
        """What made a checkpoint.

        Raises:
            Damaged: if it is not what was saved.
            UsageError: if another version of this program made it.
        """
        found = self._restored(step, run=ocp.args.JsonRestore())
        return RunInfo.from_dict(found["run"], f"{self.run}/{FOLDER}/{step}")

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """A checkpoint's state and data iterator's state.

        Args:
            like: shapes, types and shardings, as of `state.abstract`; what has no sharding comes to
                one device.

        Raises:
            Damaged: if they are not what was saved.
        """
        like = _placed(like)
        found = self._restored(
            step,
            params=ocp.args.StandardRestore(like.params),
            ema=ocp.args.StandardRestore(like.ema),
            optimizer=ocp.args.StandardRestore({"step": like.step, "state": like.optimizer}),
            data=ocp.args.JsonRestore(),
            checksums=ocp.args.JsonRestore(),
        )
        state = TrainState(
            step=found["optimizer"]["step"],
            params=found["params"],
            ema=found["ema"],
            optimizer=found["optimizer"]["state"],
        )
        self._verify(step, state, found["checksums"])
        return state, found["data"]

    def ema(self, step: int, config: TrainConfig) -> Params:
        """A checkpoint's averaged parameters alone: a quarter of its bytes. Raises as `restore`."""
        wanted = ocp.args.StandardRestore(_placed(abstract(config).ema))
        found = self._restored(step, ema=wanted, checksums=ocp.args.JsonRestore())
        sums = {name: n for name, n in found["checksums"].items() if name.startswith(".ema")}
        self._verify(step, _Averaged(ema=found["ema"]), sums)
        return found["ema"]

    def set_aside(self, step: int) -> Path:
        """Renames a damaged checkpoint to what is not taken for one; returns its new name."""
        names = (self._folder / f"damaged-{step}{suffix}" for suffix in ("", *"abcdefghij"))
        place = next(name for name in names if not name.exists())
        if jax.process_index() == 0:
            (self._folder / str(step)).rename(place)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set {place.name} aside")
        self._manager.reload()
        return place

    def _restored(self, step: int, **wanted: Any) -> Any:
        """Raises Damaged, in all processes if in one, and UsageError as `damage.reading`."""
        reason, found = None, None
        try:
            with reading(self._folder / str(step)):
                found = self._manager.restore(step, args=ocp.args.Composite(**wanted))
        except Damaged as e:
            reason = e
        self._agree(step, reason)
        return found

    def _verify(self, step: int, tree: Any, wanted: dict[str, int]) -> None:
        wrong = damaged(tree, wanted)
        what = f"{self._folder / str(step)}: is damaged ({wrong[:1]} is not what was saved)"
        self._agree(step, Damaged(what) if wrong else None)

    def _agree(self, step: int, reason: Damaged | None) -> None:
        """Raises Damaged if this or another process has a reason to."""
        bad = reason is not None
        if jax.process_count() > 1:
            bad = bool(multihost_utils.process_allgather(np.array(bad)).any())
        if bad:
            where = f"{self._folder / str(step)}: is damaged (another process cannot read it)"
            raise reason or Damaged(where)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Averaged:
    """The part of a state that simulates, with the same name."""

    ema: Params


def _placed(tree: Any) -> Any:
    """Shapes with shardings: one device's where none is stated, whatever devices saved them."""
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or one), tree
    )
