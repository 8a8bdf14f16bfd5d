"""A trained checkpoint as a simulator: action in, frames out, and rollouts of many actions."""

from trainer.simulate.media import contact_sheet, write_contact_sheet, write_mp4
from trainer.simulate.rollout import Rollout, rollout
from trainer.simulate.simulator import Embed, SamplerSpec, Simulator, describe
from trainer.simulate.start import from_image, from_table, load_start

__all__ = [
    "Embed",
    "Rollout",
    "SamplerSpec",
    "Simulator",
    "contact_sheet",
    "describe",
    "from_image",
    "from_table",
    "load_start",
    "rollout",
    "write_contact_sheet",
    "write_mp4",
]
