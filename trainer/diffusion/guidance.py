"""Classifier-free guidance that sharpens the action and keeps the history (UniSim, section 2.2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from trainer.diffusion.denoise import DenoiseFn
from trainer.model import Conditioning, drop_action


def guided(
    denoise: DenoiseFn,
    eta: float,
    empty_tokens: Float[Array, "l d"],
    empty_mask: Bool[Array, " l"],
) -> DenoiseFn:
    """(1 + η)·ε(·|h, a) - η·ε(·|h).

    Args:
        denoise: the model; it is called once per step, with the batch twice (once if η is 0).
        eta: η, the strength; 0 is the conditional model itself.
        empty_tokens, empty_mask: embedding of "", what the action was replaced by in training.
    """
    if eta == 0:
        return denoise

    def guided_denoise(
        noisy: Float[Array, "b t h w 3"], log_snr: Float[Array, " b"], cond: Conditioning, /
    ) -> Float[Array, "b t h w 3"]:
        batch = log_snr.shape[0]
        without = drop_action(cond, jnp.ones(batch, bool), empty_tokens, empty_mask)
        both = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]),
            (noisy, log_snr, cond),
            (noisy, log_snr, without),
        )
        conditional, unconditional = jnp.split(denoise(*both), 2)
        return (1 + eta) * conditional - eta * unconditional

    return guided_denoise
