"""`DenoiseFn`: what a sampler or a loss needs of a model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from trainer.model import Conditioning


@runtime_checkable
class DenoiseFn(Protocol):
    """Predicts the noise ε in noisy = α·frames + σ·ε."""

    def __call__(
        self,
        noisy: Float[Array, "b t h w 3"],
        log_snr: Float[Array, " b"],
        cond: Conditioning,
        /,
    ) -> Float[Array, "b t h w 3"]: ...
