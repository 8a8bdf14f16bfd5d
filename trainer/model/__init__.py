"""The video U-Net and what it is conditioned on."""

from trainer.model.conditioning import Conditioning, drop_action
from trainer.model.config import ModelConfig
from trainer.model.unet import VideoUNet, spread_of

__all__ = ["Conditioning", "ModelConfig", "VideoUNet", "drop_action", "spread_of"]
