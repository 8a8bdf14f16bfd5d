"""`Layout`: where state and batches live, from one CPU to a pod of TPUs.

All devices form one mesh axis. Batches are split over it, and so is every parameter with its
average and moments (fully sharded data parallel): XLA gathers a layer's parameters when it needs
them. On one device nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from schemas import UsageError

AXIS = "data"
_MIN_SHARDED = 1 << 16  # smaller arrays cost more to gather than to keep whole


class Layout:
    """How arrays are spread over the devices of a mesh.

    Args:
        devices: JAX devices, of all processes; None means all there are.
    """

    def __init__(self, devices: Sequence[Any] | None = None):
        self.mesh = Mesh(np.array(list(devices or jax.devices())), (AXIS,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.batch = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def check(self, batch_size: int) -> None:
        """Raises UsageError if a batch does not divide over the devices."""
        if batch_size % self.mesh.size:
            raise UsageError(
                f"a batch of {batch_size} does not divide over {self.mesh.size} devices; change"
                " --batch-size"
            )

    def of(self, tree: Any) -> Any:
        """The sharding of each array of a tree: its longest dimension that divides, else whole."""
        return jax.tree.map(lambda leaf: NamedSharding(self.mesh, self._spec(leaf.shape)), tree)

    def shaped(self, tree: Any) -> Any:
        """A tree of shapes with their shardings, to restore into."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.of(tree),
        )

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's part of a batch as global arrays, split over the devices."""
        return {
            name: jax.make_array_from_process_local_data(self.batch, np.ascontiguousarray(value))
            for name, value in batch.items()
        }

    def put_whole(self, tree: Any) -> Any:
        """Arrays that every device holds."""
        return jax.device_put(tree, self.replicated)

    def _spec(self, shape: tuple[int, ...]) -> PartitionSpec:
        divides = [i for i, n in enumerate(shape) if n % self.mesh.size == 0]
        if self.mesh.size == 1 or np.prod(shape, dtype=np.int64) < _MIN_SHARDED or not divides:
            return PartitionSpec()
        longest = max(divides, key=lambda i: shape[i])
        return PartitionSpec(*(AXIS if i == longest else None for i in range(len(shape))))
