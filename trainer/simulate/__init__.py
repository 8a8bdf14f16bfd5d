"""A trained checkpoint as a simulator: action in, frames out, and rollouts of many actions."""

from trainer.simulate.media import contact_sheet, write_contact_sheet, write_mp4
from trainer.simulate.rollout import Rollout, rollout, stream
from trainer.simulate.simulator import Controls, Embed, SamplerSpec, Simulator
from trainer.simulate.stage import describe
from trainer.simulate.start import from_image, from_table, load_start

__all__ = [
    "Controls",
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
    "stream",
    "write_contact_sheet",
    "write_mp4",
]
