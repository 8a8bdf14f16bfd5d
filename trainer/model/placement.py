"""`Placement`: how activations are spread over a mesh of (data, model).

Samples go over `data`. Over `model` go the frames of a sample, as nearly all layers look at one
frame at a time and then need nothing of the others; where frames look at each other, positions go
over `model` instead, and XLA exchanges the one for the other (all-to-all).
"""

from __future__ import annotations

import dataclasses

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

DATA, MODEL = "data", "model"


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where activations live; without a mesh, or with one device, nothing is said."""

    mesh: Mesh | None = None

    def frames(self, x: Float[Array, "b t *n"]) -> Float[Array, "b t *n"]:
        """Samples over `data`, frames over `model`."""
        return self._put(x, PartitionSpec(DATA, MODEL))

    def positions(self, x: Float[Array, "b t p c"]) -> Float[Array, "b t p c"]:
        """Samples over `data`, positions over `model` if they divide."""
        if self.mesh is None or x.shape[2] % self.mesh.shape[MODEL]:
            return x
        return self._put(x, PartitionSpec(DATA, None, MODEL))

    def _put(self, x: Array, spec: PartitionSpec) -> Array:
        if self.mesh is None or self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))


ANYWHERE = Placement()
"""Nothing is said of where activations live."""
