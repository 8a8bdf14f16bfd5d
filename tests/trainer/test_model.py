"""Laws of the video U-Net: what is behind a mask does not matter, and what is not does."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from schemas import UsageError
from tests.trainer import tiny
from tests.trainer.tiny import predict
from trainer.model import Conditioning, ModelConfig, VideoUNet, drop_action
from trainer.model.attention import TemporalAttention
from trainer.model.convolution import TemporalConvolution

REAL = {"frame_mask": [[1, 1, 1, 0], [1, 0, 0, 0]], "history_mask": [[0, 1], [0, 0]]}
REAL |= {"token_mask": [[1, 1, 1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]]}

# a base model, and a super-resolution model
KINDS = {"base": {}, "sr": {"temporal": "convolution", "upscale": 2}}


@pytest.fixture(scope="module")
def unet() -> VideoUNet:
    return tiny.model()


@pytest.fixture(scope="module", params=KINDS)
def grads(request):
    """Value and gradients of the error on real frames, of parameters, frames and conditioning."""
    graph, params = nnx.split(tiny.model(**KINDS[request.param]))
    upscale = 1 if request.param == "base" else 2

    def error(params, noisy, floats, log_snr, cond):
        cond = dataclasses.replace(cond, **floats)
        out = nnx.merge(graph, params)(noisy, log_snr, cond)
        real = cond.frame_mask[:, :, None, None, None]
        return jnp.square(out - 0.3).sum(where=real), out

    step = jax.jit(jax.value_and_grad(error, (0, 1, 2), has_aux=True))

    def run(noisy, log_snr, cond):
        floats = {"history": cond.history, "tokens": cond.tokens}
        if upscale > 1:
            floats |= {"low": cond.low}
        (_, out), found = step(params, noisy, floats, log_snr, cond)
        return out, found

    return run, upscale


def padded(upscale: int = 1):
    """A batch with padding of every kind; the second sample has no history at all."""
    noisy, log_snr, cond = tiny.batch(upscale=upscale)
    return (
        noisy,
        log_snr,
        dataclasses.replace(cond, **{name: jnp.asarray(mask, bool) for name, mask in REAL.items()}),
    )


def behind(mask: jax.Array, values: jax.Array, other: float) -> jax.Array:
    """`values` with `other` wherever the mask is false."""
    return jnp.where(mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim)), values, other)


def same(a, b) -> None:
    """Equal bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("other", [7.0, np.nan])
@pytest.mark.parametrize("what", ["frames", "history", "tokens", "controls", "slots", "low"])
def test_what_a_mask_hides_changes_no_bit_of_output_or_gradient(grads, what, other):
    run, upscale = grads
    noisy, log_snr, cond = padded(upscale)
    changed, number = cond, 4095 if np.isnan(other) else 7
    hidden = noisy
    if what == "frames":
        hidden = behind(cond.frame_mask, noisy, other)
    elif what == "history":
        history = behind(cond.history_mask, cond.history, other)
        changed = dataclasses.replace(cond, history=history)
    elif what == "tokens":
        changed = dataclasses.replace(cond, tokens=behind(cond.token_mask, cond.tokens, other))
    elif what == "low":
        if cond.low is None:
            return  # a base model has none
        changed = dataclasses.replace(cond, low=behind(cond.frame_mask, cond.low, other))
    elif what == "controls":
        controls = behind(cond.frame_mask, cond.controls, number)
        changed = dataclasses.replace(cond, controls=controls)
    else:
        mask = jnp.broadcast_to(cond.control_mask[:, None], cond.controls.shape)
        changed = dataclasses.replace(cond, controls=jnp.where(mask, cond.controls, number))
    out, (params, frames, floats) = run(noisy, log_snr, cond)
    out2, (params2, frames2, floats2) = run(hidden, log_snr, changed)
    same(out, out2)
    same(params, params2)
    same((frames, floats), (frames2, floats2))
    assert not np.asarray(frames)[~np.asarray(cond.frame_mask)].any()
    assert not np.asarray(floats["history"])[~np.asarray(cond.history_mask)].any()
    assert not np.asarray(floats["tokens"])[~np.asarray(cond.token_mask)].any()


def test_padding_more_frames_and_tokens_changes_nothing_that_is_real(unet):
    noisy, log_snr, cond = tiny.batch(t=3)
    cond = dataclasses.replace(cond, token_mask=cond.token_mask.at[:, 5:].set(False))
    grown = dataclasses.replace(
        cond,
        tokens=jnp.pad(cond.tokens, ((0, 0), (0, 3), (0, 0)), constant_values=2),
        token_mask=jnp.pad(cond.token_mask, ((0, 0), (0, 3))),
        controls=jnp.pad(cond.controls, ((0, 0), (0, 2), (0, 0)), constant_values=9),
        frame_mask=jnp.pad(cond.frame_mask, ((0, 0), (0, 2))),
    )
    more = jnp.pad(noisy, ((0, 0), (0, 2), (0, 0), (0, 0), (0, 0)), constant_values=1)
    out = predict(unet, noisy, log_snr, cond)
    out2 = predict(unet, more, log_snr, grown)
    np.testing.assert_allclose(out2[:, :3], out, atol=3e-5)
    assert not out2[:, 3:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_of_one_real_frame_is_an_image(kind):
    unet = tiny.model(**KINDS[kind])
    noisy, log_snr, cond = tiny.batch(upscale=unet.config.upscale)
    cond = dataclasses.replace(cond, token_mask=cond.token_mask.at[:, 3:].set(False))
    alone = dataclasses.replace(
        cond,
        controls=cond.controls[:, :1],
        frame_mask=cond.frame_mask[:, :1],
        low=None if cond.low is None else cond.low[:, :1],
    )
    padded = dataclasses.replace(cond, frame_mask=cond.frame_mask.at[:, 1:].set(False))
    image = predict(unet, noisy[:, :1], log_snr, alone)
    np.testing.assert_allclose(predict(unet, noisy, log_snr, padded)[:, :1], image, atol=3e-5)
    assert not np.allclose(predict(unet, noisy, log_snr, cond)[:, :1], image, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_of_one_real_frame_takes_the_image_path_bit_for_bit(kind, monkeypatch):
    """The image path has no other frames in it: attention is a frame's own values, and temporal
    convolution is not there. Layer by layer, as a compiler may round two programs differently."""
    unet = tiny.model(**KINDS[kind])
    noisy, log_snr, cond = tiny.batch(upscale=unet.config.upscale)
    cond = dataclasses.replace(cond, frame_mask=cond.frame_mask.at[:, 1:].set(False))
    found = unet(noisy, log_snr, cond)

    def own_values(self, x, frame_mask, placement):
        return x + self.out(jnp.split(self.qkv(self.norm(x)), 3, -1)[2])

    monkeypatch.setattr(TemporalAttention, "__call__", own_values)
    monkeypatch.setattr(TemporalConvolution, "__call__", lambda self, x, frame_mask: x)
    np.testing.assert_array_equal(unet(noisy, log_snr, cond), found)
    video = dataclasses.replace(cond, frame_mask=jnp.ones_like(cond.frame_mask))
    other = unet(noisy, log_snr, video)[:, :1]
    monkeypatch.undo()
    assert not np.allclose(unet(noisy, log_snr, video)[:, :1], other, atol=1e-2)


def test_a_sample_without_any_real_frame_is_zeros_and_harms_nobody(grads):
    noisy, log_snr, cond = tiny.batch(upscale=grads[1])
    cond = dataclasses.replace(
        cond,
        frame_mask=cond.frame_mask.at[1].set(False),
        token_mask=jnp.zeros_like(cond.token_mask),
        control_mask=jnp.zeros_like(cond.control_mask),
    )
    out, found = grads[0](noisy, log_snr, cond)
    assert not out[1].any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((out, found)))


@pytest.mark.parametrize("name", ["history", "tokens", "controls", "log_snr", "noisy"])
def test_what_is_real_does_matter(unet, name):
    noisy, log_snr, cond = tiny.batch()
    out = predict(unet, noisy, log_snr, cond)
    if name == "noisy":
        # through temporal attention, frame 0 sees frame 3
        other = predict(unet, noisy.at[:, 3].add(1.0), log_snr, cond)
    elif name == "log_snr":
        other = predict(unet, noisy, log_snr + 1, cond)
    else:
        value = getattr(cond, name)
        changed = {name: value[:, ::-1] if name == "history" else (value * 3 + 1) % 4096}
        other = predict(unet, noisy, log_snr, dataclasses.replace(cond, **changed))
    assert jnp.abs(other - out)[:, 0].max() > 1e-3


def test_absent_history_is_not_black_history(unet):
    noisy, log_snr, cond = tiny.batch()
    zeros = dataclasses.replace(cond, history=jnp.zeros_like(cond.history))
    absent = dataclasses.replace(zeros, history_mask=jnp.zeros_like(cond.history_mask))
    assert (
        jnp.abs(predict(unet, noisy, log_snr, zeros) - predict(unet, noisy, log_snr, absent)).max()
        > 1e-3
    )


def test_the_motion_of_a_frame_is_told_to_that_frame(unet):
    """Without attention nothing passes between frames, so only its own controls can reach one."""
    unet = tiny.model(attention=(), heads=())
    noisy, log_snr, cond = tiny.batch()
    cond = dataclasses.replace(cond, control_mask=jnp.ones_like(cond.control_mask))
    moved = dataclasses.replace(cond, controls=cond.controls.at[:, 2].set(100))
    change = jnp.abs(
        predict(unet, noisy, log_snr, moved) - predict(unet, noisy, log_snr, cond)
    ).max((0, 2, 3, 4))
    assert change[2] > 1e-3
    same(change[jnp.array([0, 1, 3])], jnp.zeros(3))


def test_a_level_of_temporal_attention_alone_lets_frames_see_each_other():
    noisy, log_snr, cond = tiny.batch()
    later = noisy.at[:, 3].add(1.0)
    seen = {}
    for name, changes in {
        "all": {},
        "temporal": {"temporal_only": (1,)},
        "none": {"attention": (), "heads": ()},
    }.items():
        unet = tiny.model(**changes)
        change = predict(unet, later, log_snr, cond) - predict(unet, noisy, log_snr, cond)
        seen[name] = float(jnp.abs(change[:, 0]).max()), len(jax.tree.leaves(nnx.state(unet)))
    assert seen["temporal"][0] > 1e-3 and seen["none"][0] == 0
    assert seen["none"][1] < seen["temporal"][1] < seen["all"][1]


@pytest.mark.parametrize("low", ["low", "low_log_snr"])
def test_super_resolution_sees_the_small_video_and_its_noise_level(low):
    unet = tiny.model(**KINDS["sr"])
    noisy, log_snr, cond = tiny.batch(upscale=2)
    other = dataclasses.replace(cond, **{low: getattr(cond, low) + 1})
    change = predict(unet, noisy, log_snr, other) - predict(unet, noisy, log_snr, cond)
    assert jnp.abs(change).max() > 1e-3
    with pytest.raises(UsageError, match=r"low is None, wanted \(2, 4, 4, 6, 3\)"):
        unet(*tiny.batch())


@pytest.mark.parametrize(("temporal", "remat"), [("attention", "blocks"), ("convolution", "dots")])
def test_a_loop_over_blocks_and_recomputation_change_no_value(temporal, remat):
    noisy, log_snr, cond = padded()
    outs = []
    for more in ({}, {"scan": True, "remat": remat}):
        one_level = {"multipliers": (1,), "attention": (0,), "heads": (1,)}
        unet = tiny.model(blocks=2, dropout=0.2, temporal=temporal, **one_level, **more)
        graph, params = nnx.split(unet)

        def error(params, graph=graph):
            key = jax.random.key(1)
            out = nnx.merge(graph, params)(noisy, log_snr, cond, dropout_key=key)
            return jnp.square(out - 0.3).sum(where=cond.frame_mask[:, :, None, None, None])

        outs.append(jax.tree.leaves(jax.jit(jax.value_and_grad(error))(params)))
    for a, b in zip(*outs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4)


def test_dropping_the_action_keeps_the_history():
    _, _, cond = tiny.batch()
    tokens, mask = jnp.full((8, 12), 0.5), jnp.arange(8) < 1
    out = drop_action(cond, jnp.array([True, False]), tokens, mask)
    same(out.history, cond.history)
    same(out.history_mask, cond.history_mask)
    same((out.tokens[0], out.token_mask[0]), (tokens, mask))
    assert not out.control_mask[0].any()
    same([x[1] for x in jax.tree.leaves(out)], [x[1] for x in jax.tree.leaves(cond)])


def test_a_dropped_action_tells_nothing_of_the_action(unet):
    noisy, log_snr, one = tiny.batch(seed=1)
    _, _, two = tiny.batch(seed=2)
    two = dataclasses.replace(two, history=one.history)
    everyone, empty = jnp.ones(2, bool), (jnp.ones((8, 12)), jnp.arange(8) < 1)
    a, b = (predict(unet, noisy, log_snr, drop_action(c, everyone, *empty)) for c in (one, two))
    same(a, b)


def test_dropout_needs_a_key():
    noisy, log_snr, cond = tiny.batch()
    unet = tiny.model(dropout=0.5)
    still = predict(unet, noisy, log_snr, cond)
    same(still, predict(unet, noisy, log_snr, cond))
    one, two = (predict(unet, noisy, log_snr, cond, dropout_key=jax.random.key(k)) for k in (1, 2))
    same(one, predict(unet, noisy, log_snr, cond, dropout_key=jax.random.key(1)))
    assert jnp.abs(one - still).max() > 1e-3
    assert jnp.abs(one - two).max() > 1e-3


def test_bfloat16_is_near_float32():
    noisy, log_snr, cond = tiny.batch()
    exact = predict(tiny.model(), noisy, log_snr, cond)
    rough = predict(tiny.model(dtype="bfloat16"), noisy, log_snr, cond)
    assert rough.dtype == jnp.float32
    error = jnp.sqrt(jnp.square(rough - exact).mean() / jnp.square(exact).mean())
    assert error < 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"patch": 2},
        {"history_frames": 0},
        {"multipliers": (1,), "attention": (0,)},
        {"attention": (0, 1), "heads": (1, 2)},
        {"blocks": 2},
        {"temporal": "convolution", "upscale": 4, "multipliers": (1, 1, 2)},
    ],
)
def test_every_shape_of_model_predicts_frames(changes):
    unet = tiny.model(**changes)
    noisy, log_snr, cond = tiny.batch(
        history=unet.config.history_frames, upscale=unet.config.upscale
    )
    out = predict(unet, noisy, log_snr, cond)
    assert out.shape == noisy.shape
    assert np.isfinite(out).all()
    assert out.std() > 1e-3


def test_table_6_has_the_papers_size():
    shapes = nnx.eval_shape(lambda: VideoUNet(ModelConfig(), rngs=nnx.Rngs(0)))
    count = sum(x.size for x in jax.tree.leaves(nnx.state(shapes)))
    assert round(count / 1e9, 1) == 5.6


def test_frames_that_cannot_be_halved_are_refused(unet):
    noisy, log_snr, cond = tiny.batch(h=9)
    with pytest.raises(UsageError, match=r"9x12 .* multiples of 2, such as 8x12"):
        unet(noisy, log_snr, cond)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": (2,)}, "level 2, but multipliers"),
        ({"heads": (1, 2)}, "one number of heads for each"),
        ({"temporal_only": (0,)}, r"only at levels \(0,\); .* \(1,\)"),
        ({"temporal_only": (1,), "temporal": "convolution"}, "only at levels"),
        ({"channels": 0}, "channels is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        tiny.config(**changes)


def test_conditioning_of_another_shape_is_refused(unet):
    noisy, log_snr, cond = tiny.batch(history=3)
    with pytest.raises(UsageError, match=r"history is \(2, 3, 8, 12, 3\), wanted \(2, 2,"):
        unet(noisy, log_snr, cond)


def test_conditioning_is_a_pytree():
    _, _, cond = tiny.batch()
    leaves, tree = jax.tree.flatten(cond)
    assert len(leaves) == len(dataclasses.fields(Conditioning)) - 2  # a base model has no low video
    assert len(jax.tree.leaves(tiny.batch(upscale=2)[2])) == len(leaves) + 2
    same(jax.tree.unflatten(tree, leaves), cond)
