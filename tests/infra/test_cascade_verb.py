"""A cascade as its users make it: a table of three sizes, three runs, one `unisim simulate`."""

import dataclasses

import av
import pytest
from PIL import Image

from pipelines.sources import bridge
from tests.command import unisim
from tests.trainer import tiny_run as tiny
from trainer.train import train

TIERS = ("8x16:raw", "16x32:raw", "64x128:jpeg")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = tmp_path_factory.mktemp("cascade")
    raw = bridge.fake(root / "raw", 0, traps=False)
    tiers = [text for tier in TIERS for text in ("--tier", tier)]
    unisim("prepare", "--source", f"bridge={raw}", "--out", root / "table", *tiers)
    return root / "table"


def test_three_models_answer_an_action(table, tmp_path):
    finer = dataclasses.replace(tiny.CONFIG.model, temporal="convolution")
    runs = []
    for tier, upscale in zip(TIERS, (1, 2, 4), strict=True):
        model = dataclasses.replace(finer, upscale=upscale) if upscale > 1 else tiny.CONFIG.model
        config = tiny.config(tier=tier.partition(":")[0], model=model, steps=2, batch_size=2)
        train(config, data=str(table), out=tmp_path / tier, say=lambda _: None)
        runs.append(tmp_path / tier)
    unisim(
        *("simulate", "--checkpoint", runs[0], "--finer", runs[1], "--finer", runs[2]),
        *("--start", table, "--action", "put the pot left", "--action", "lift the lid"),
        *("--sampler", "dpm", "--steps", 2, "--out", tmp_path / "out"),
    )
    with av.open(str(tmp_path / "out" / "rollout.mp4")) as video:
        frames = sum(1 for _ in video.decode(video=0))
        assert video.streams.video[0].width == 128 * 4
    assert frames == 1 + 2 * tiny.CONFIG.frames
    with Image.open(tmp_path / "out" / "rollout.png") as sheet:
        assert sheet.width > 4 * 120
