"""Noise schedule, loss, guidance and samplers; they know a model only as a `DenoiseFn`."""

from trainer.diffusion.ancestral import AncestralSampler
from trainer.diffusion.clip import Clip
from trainer.diffusion.denoise import DenoiseFn
from trainer.diffusion.deterministic import DDIMSampler, DPMSolver
from trainer.diffusion.guidance import guided
from trainer.diffusion.loss import Prediction, diffusion_loss, frame_errors
from trainer.diffusion.lowres import drawn_low, shrunk, with_low
from trainer.diffusion.sampler import Sampler
from trainer.diffusion.schedule import CosineSchedule, alpha_sigma

__all__ = [
    "AncestralSampler",
    "Clip",
    "CosineSchedule",
    "DDIMSampler",
    "DPMSolver",
    "DenoiseFn",
    "Prediction",
    "Sampler",
    "alpha_sigma",
    "diffusion_loss",
    "drawn_low",
    "frame_errors",
    "guided",
    "shrunk",
    "with_low",
]
