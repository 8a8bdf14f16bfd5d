"""Noise schedule, loss, guidance and sampler; they know a model only as a `DenoiseFn`."""

from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.guidance import guided
from trainer.diffusion.loss import diffusion_loss
from trainer.diffusion.sampler import AncestralSampler
from trainer.diffusion.schedule import CosineSchedule, alpha_sigma

__all__ = [
    "AncestralSampler",
    "CosineSchedule",
    "DenoiseFn",
    "alpha_sigma",
    "diffusion_loss",
    "guided",
]
