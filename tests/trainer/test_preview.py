"""What the averaged model makes of held-out starts, beside what happened: in TensorBoard files."""

import io

import jax
import numpy as np
import pytest
from PIL import Image, ImageSequence

from schemas import UsageError
from tests.trainer import tiny_run as tiny
from tests.trainer.test_board import events
from trainer.data import EMPTY
from trainer.data.example import pad_tokens
from trainer.train import init, set_up, train
from trainer.train.preview import Preview


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    tiny.cache_compilations(tmp_path_factory.getbasetemp() / "compiled")
    return tiny.table(tmp_path_factory.mktemp("table"))


def _preview(config, data):
    setup = set_up(config, data)
    empty = pad_tokens(setup.embeddings.lookup(EMPTY), config.tokens)
    return setup, Preview(setup, setup.layout.put_whole(empty))


def test_a_preview_shows_the_held_out_rows_and_what_the_model_makes_of_them(data):
    setup, preview = _preview(tiny.config(sample_every=2), data)
    state = init(setup.config)
    pairs = preview.pairs(state.ema)
    assert len({pair.key for pair in pairs}) == len(pairs)
    assert {pair.key.split("/")[0] for pair in pairs} == {"moving", "still"}
    table = setup.table
    rows = {table.key(row): row for row in table.rows("val").tolist()}
    for pair in pairs:
        chunk = table.chunk(rows[pair.key])
        example = setup.maker.example(rows[pair.key])
        history = int(example["history_mask"].sum())
        n = int(example["frame_mask"].sum())
        first = chunk.is_first and chunk.num_frames > 1
        wanted = chunk.pixels()[first : first + n]
        np.testing.assert_array_equal(pair.truth[history:], wanted)
        np.testing.assert_array_equal(pair.truth[:history], pair.drawn[:history])
        assert pair.drawn.shape == pair.truth.shape and pair.action == chunk.text
        assert (pair.drawn[history:] != pair.truth[history:]).any()
    # the same noise every time, so that only the model makes a difference
    again = preview.pairs(state.ema)
    assert all((a.drawn == b.drawn).all() for a, b in zip(pairs, again, strict=True))
    other = preview.pairs(jax.tree.map(lambda x: x + 0.05, state.ema))
    assert all((a.drawn != b.drawn).any() for a, b in zip(pairs, other, strict=True))


def test_a_run_writes_them_as_moving_pictures_and_trains_as_without(data, tmp_path):
    train(tiny.config(steps=4, sample_every=2), data=data, out=tmp_path / "a", say=lambda _: None)
    train(tiny.config(steps=4), data=data, out=tmp_path / "b", say=lambda _: None)
    metrics = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in "ab"]
    assert metrics[0] == metrics[1]
    shown = [(e.step, v) for e in events(tmp_path / "a") for v in e.summary.value if v.image.width]
    assert [step for step, _ in shown] == [2] * (len(shown) // 2) + [4] * (len(shown) // 2)
    setup, preview = _preview(tiny.config(sample_every=2), data)
    pairs = {f"samples/{pair.key}": pair for pair in preview.pairs(init(setup.config).ema)}
    assert {value.tag for _, value in shown} == pairs.keys()
    for _, value in shown:
        pair = pairs[value.tag]
        assert value.metadata.display_name == f"{value.tag}: {pair.action}"
        with Image.open(io.BytesIO(value.image.encoded_image_string)) as gif:
            frames = [np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(gif)]
            assert gif.format == "GIF" and len(frames) == len(pair.truth)
        scale = frames[0].shape[1] // (2 * pair.truth.shape[2])
        half, height = pair.truth.shape[2] * scale, pair.truth.shape[1] * scale
        caption = frames[0][:-height]
        assert caption.max() == 255 and caption.min() < 100  # ink on paper
        for frame, truth in zip(frames, pair.truth, strict=True):
            left = frame[-height::scale, :half:scale].astype(int)
            assert np.abs(left - truth).mean() < 12  # 256 colours
    # nothing is shown of a run without it
    assert not [v for e in events(tmp_path / "b") for v in e.summary.value if v.image.width]


def test_nothing_held_out_is_said_before_anything_is_compiled(data, tmp_path):
    config = tiny.config(sample_every=2, where="num_frames > 1 and split = 'train'")
    with pytest.raises(UsageError, match=r"nothing in split val .* --sample-every"):
        train(config, data=data, out=tmp_path, say=lambda _: None)
    config = tiny.config(validate_every=2, where="split = 'train'")
    with pytest.raises(UsageError, match=r"nothing in split val .* --validate-every"):
        train(config, data=data, out=tmp_path, say=lambda _: None)
