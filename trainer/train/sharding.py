"""`Layout`: where state and batches live, from one CPU to a pod of TPUs.

Devices form a mesh of (data, model). Batches are split over `data`, and the frames of a sample over
`model` (`trainer.model.placement`). Every parameter, with its average and moments, is split over
both (fully sharded data parallel): XLA gathers a layer's parameters when it needs them. On one
device nothing moves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from schemas import UsageError
from trainer.configs.config import TrainConfig
from trainer.model.placement import DATA, MODEL, Placement


class Layout:
    """How arrays are spread over the devices of a mesh.

    Args:
        devices: JAX devices, of all processes; None means all there are.
        model: devices that share a sample; the others are over `data`.
        whole: arrays of fewer elements are kept whole, as gathering them costs more.

    Raises:
        UsageError: if the devices do not divide.
    """

    def __init__(self, devices: Sequence[Any] | None = None, model: int = 1, whole: int = 1 << 16):
        found = np.array(list(devices or jax.devices()))
        if model < 1 or found.size % model:
            raise UsageError(
                f"--model-axis {model} does not divide {found.size} devices; wanted one of"
                f" {', '.join(map(str, divisors(found.size)))}"
            )
        self.mesh = Mesh(found.reshape(-1, model), (DATA, MODEL))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.batch = NamedSharding(self.mesh, PartitionSpec(DATA))
        self.placement = Placement(self.mesh)
        self._whole = whole

    def check(self, config: TrainConfig) -> None:
        """Raises UsageError if batch or frames do not divide over the devices."""
        data, model = self.mesh.shape[DATA], self.mesh.shape[MODEL]
        if config.batch_size // config.accumulate % data:
            parts = f" in {config.accumulate} parts" if config.accumulate > 1 else ""
            raise UsageError(
                f"a batch of {config.batch_size}{parts} does not divide over {data} devices (data);"
                " change --batch-size or --accumulate, or raise --model-axis"
            )
        if config.frames % model:
            raise UsageError(
                f"{config.frames} frames do not divide over --model-axis {model}; wanted one of"
                f" {', '.join(map(str, divisors(config.frames)))}"
            )
        if jax.process_count() > 1 and jax.local_device_count() % model:
            raise UsageError(
                f"--model-axis {model} reaches beyond the {jax.local_device_count()} devices of a"
                " process; lower it"
            )

    def of(self, tree: Any) -> Any:
        """The sharding of each array of a tree: over all devices if its dimensions divide."""
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), tree)

    def shaped(self, tree: Any) -> Any:
        """A tree of shapes with their shardings, to restore into."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.of(tree),
        )

    def places(self, batch_size: int) -> list[int]:
        """Which samples of a batch this process's devices hold, in rising order."""
        found = self.batch.addressable_devices_indices_map((batch_size,)).values()
        return sorted({i for index in found if index for i in range(batch_size)[index[0]]})

    def put(self, batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, jax.Array]:
        """This process's part of a batch, the samples at its `places`, as global arrays that are
        split over the devices."""
        starts = {place: i for i, place in enumerate(self.places(batch_size))}

        def whole(value: np.ndarray) -> jax.Array:
            def part(index):
                rows = range(batch_size)[index[0]]
                return value[starts[rows.start] :][: len(rows)]

            return jax.make_array_from_callback((batch_size, *value.shape[1:]), self.batch, part)

        with jax.transfer_guard("allow"):  # here it is meant
            return {name: whole(value) for name, value in batch.items()}

    def put_whole(self, tree: Any) -> Any:
        """Arrays that every device holds."""
        return jax.device_put(tree, self.replicated)

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        """The dimension that is cut over each axis: both cut one, if one divides by all devices;
        else each cuts what it can, as a width such as 1536 divides by 256 and by 4, not by 1024."""
        if self.mesh.size == 1 or np.prod(shape, dtype=np.int64) < self._whole:
            return PartitionSpec()
        data, model = self.mesh.shape[DATA], self.mesh.shape[MODEL]
        places = [*range(len(shape)), None]

        def cuts(at: tuple[int | None, int | None]) -> list[int]:
            return [(data if at[0] == i else 1) * (model if at[1] == i else 1) for i in places[:-1]]

        def worth(at: tuple[int | None, int | None]) -> tuple[int, bool, bool, int]:
            # the last dimension is the one that TPUs pad to 128: it is cut where no other can be
            used = {i for i in at if i is not None}
            into = math.prod(cuts(at))
            return into, at[0] == at[1], len(shape) - 1 not in used, sum(shape[i] for i in used)

        divides = [
            at
            for at in itertools.product(places, places)
            if all(n % cut == 0 for n, cut in zip(shape, cuts(at), strict=True))
        ]
        best = max(divides, key=worth)
        names = [
            tuple(name for name, place in zip((DATA, MODEL), best, strict=True) if place == i)
            for i in range(len(shape))
        ]
        while names and not names[-1]:
            names.pop()
        return PartitionSpec(*(n or None for n in names))


def divisors(number: int) -> list[int]:
    """In rising order."""
    return [i for i in range(1, number + 1) if number % i == 0]
