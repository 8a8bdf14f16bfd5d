"""Laws of the layers: convolution, norm, attention, control features."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from schemas import BINS
from tests.trainer import tiny
from trainer.model.actions import ActionEncoder, control_features
from trainer.model.attention import TemporalAttention, temporal_mask, weights_of
from trainer.model.convolution import TemporalConvolution
from trainer.model.layers import (
    Downsample,
    FrameNorm,
    Upsample,
    conv3x3,
    depth_to_space,
    dropout,
    space_to_depth,
)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def matmul_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 3×3 convolution from its definition, as nine matrix products."""
    h, w = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [(i, j) for i in range(3) for j in range(3)]
    return sum((padded[:, i : i + h, j : j + w] @ kernel[i, j] for i, j in shifts), jnp.zeros(()))


# a few frames; so many that they are taken in several groups; a number that makes no equal groups
@pytest.mark.parametrize("frames", [3, 20, 11])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 8), (16, 3)])
def test_every_way_to_convolve_agrees_in_value_and_gradients(frames, inputs, outputs):
    x, kernel = normal(0, frames, 6, 10, inputs), 0.2 * normal(1, 3, 3, inputs, outputs)
    cotangent = normal(2, frames, 6, 10, outputs)

    def run(conv):
        value, pull = jax.vjp(conv, x, kernel)
        return value, *pull(cotangent)

    wanted = run(matmul_conv)
    ways = (partial(conv3x3, method="patches"), partial(conv3x3, method="native"), conv3x3)
    for way in ways:
        found = run(way)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=5e-5, rtol=1e-5)


def test_a_norm_looks_at_one_frame_only():
    norm = FrameNorm(8, tiny.config(), rngs=nnx.Rngs(0))
    x = 3 + 2 * normal(0, 2, 3, 4, 6, 8)
    y = norm(x)
    grouped = np.asarray(y).reshape(2, 3, 4, 6, norm.groups, -1)
    np.testing.assert_allclose(grouped.mean((2, 3, 5)), 0, atol=1e-5)
    np.testing.assert_allclose(grouped.std((2, 3, 5)), 1, atol=1e-4)
    changed = norm(x.at[:, 1].mul(100.0))
    np.testing.assert_array_equal(changed[:, 0::2], y[:, 0::2])


def test_film_scales_and_shifts_what_was_normalised():
    norm = FrameNorm(8, tiny.config(), rngs=nnx.Rngs(0))
    x, film = normal(0, 1, 2, 4, 6, 8), normal(1, 1, 2, 16)
    scale, shift = film[:, :, None, None, :8], film[:, :, None, None, 8:]
    np.testing.assert_allclose(norm(x, film), norm(x) * (1 + scale) + shift, atol=1e-5)


def test_space_to_depth_has_an_inverse_and_keeps_neighbours_together():
    x = normal(0, 2, 3, 4, 6, 5)
    y = space_to_depth(x, 2)
    assert y.shape == (2, 3, 2, 3, 20)
    np.testing.assert_array_equal(depth_to_space(y, 2), x)
    np.testing.assert_array_equal(y[0, 0, 1, 2], x[0, 0, 2:4, 4:6].ravel())


def test_resampling_halves_and_doubles():
    x = normal(0, 1, 2, 4, 6, 8)
    half = Downsample(8, 12, tiny.config(), rngs=nnx.Rngs(0))(x)
    assert half.shape == (1, 2, 2, 3, 12)
    up = Upsample(12, 8, tiny.config(), rngs=nnx.Rngs(0))
    up.conv.kernel[...] = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))
    nearest = jnp.repeat(jnp.repeat(up.dense(half), 2, 2), 2, 3)
    np.testing.assert_allclose(up(half), nearest, atol=1e-6)


def test_weights_behind_a_mask_are_exactly_zero():
    logits = 50 * normal(0, 4, 7)
    mask = jnp.arange(7) < 3
    weights = weights_of(logits, mask)
    assert not weights[:, 3:].any()
    np.testing.assert_allclose(weights[:, :3], jax.nn.softmax(logits[:, :3]), atol=1e-6)


def test_a_frame_alone_attends_to_itself_alone():
    """Then attention is a linear map of the frame itself, whatever queries and keys say."""
    layer = TemporalAttention(8, 2, tiny.config(), rngs=nnx.Rngs(0))
    layer.out.kernel[...] = normal(1, *layer.out.kernel.shape)
    x = normal(0, 2, 3, 2, 2, 8)
    alone = jnp.array([[False, True, False]] * 2)
    values = jnp.split(layer.qkv(layer.norm(x)), 3, -1)[2]
    np.testing.assert_allclose(layer(x, alone), x + layer.out(values), atol=1e-5)
    mask = temporal_mask(jnp.array([[True, True, False]]))[0]
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_a_temporal_convolution_is_the_identity_on_images_and_a_convolution_on_videos():
    layer = TemporalConvolution(8, tiny.config(), rngs=nnx.Rngs(0))
    layer.kernel[...] = 0.3 * normal(1, 3, 8, 8)
    x = normal(0, 2, 4, 2, 3, 8)
    one = jnp.array([[False, True, False, False], [True, False, False, False]])
    np.testing.assert_array_equal(layer(x, one), x)
    mask = jnp.array([[True] * 4, [True, True, False, False]])
    y = np.asarray(jnp.where(mask[..., None, None, None], nnx.silu(layer.norm(x)), 0))
    kernel = np.asarray(layer.kernel[...])
    for sample, frame in ((0, 0), (0, 2), (1, 1)):
        seen = [(tap, frame + tap - 1) for tap in range(3) if 0 <= frame + tap - 1 < 4]
        wanted = x[sample, frame] + sum(y[sample, at] @ kernel[tap] for tap, at in seen)
        np.testing.assert_allclose(layer(x, mask)[sample, frame], wanted, atol=1e-5)
    np.testing.assert_array_equal(layer(x, mask)[1, 2:], x[1, 2:])


def test_text_and_controls_share_the_places_of_the_text():
    """Controls take the last places, one per real frame; what is not there is masked; nothing at
    all is the one token of no action."""
    encoder = ActionEncoder(tiny.config(), rngs=nnx.Rngs(0))
    cond = tiny.batch(b=4)[2]
    words = jnp.arange(8) < 3
    present = jnp.array([True, False, True, False])
    cond = dataclasses.replace(
        cond,
        token_mask=words & jnp.array([[True], [True], [False], [False]]),
        control_mask=jnp.ones_like(cond.control_mask) & present[:, None],
        frame_mask=cond.frame_mask.at[:, 3].set(False),
    )
    action = encoder(cond)
    assert action.tokens.shape == (4, 8, 16)
    both = [1, 1, 1, 0, 1, 1, 1, 0]
    controls, text, neither = [0, 0, 0, 0, 1, 1, 1, 0], [1, 1, 1] + [0] * 5, [1] + [0] * 7
    np.testing.assert_array_equal(action.mask, [both, text, controls, neither])
    none = encoder.norm(encoder.none[...])
    np.testing.assert_allclose(action.tokens[3, 0], none, atol=1e-6)
    long = dataclasses.replace(cond, token_mask=jnp.ones_like(cond.token_mask))
    moved = encoder(dataclasses.replace(long, tokens=cond.tokens.at[:, 4:7].add(1)))
    same = np.array(moved.tokens) == np.array(encoder(long).tokens)
    same = same.all(axis=-1, keepdims=False)
    # in samples with controls their three places hide the text; the fourth frame has none
    assert same[[0, 2]].all() and not same[[1, 3], 4:7].any() and same[[1, 3], :4].all()


def test_the_relative_bias_depends_on_distance_only():
    layer = TemporalAttention(8, 2, tiny.config(max_frames=4), rngs=nnx.Rngs(0))
    layer.bias[...] = normal(0, *layer.bias.shape)
    bias = np.asarray(layer.relative(6))
    np.testing.assert_array_equal(bias[:, 1:, 1:], bias[:, :-1, :-1])
    assert (bias[:, 0, 1] != bias[:, 1, 0]).all()
    np.testing.assert_array_equal(bias[:, 0, 3], bias[:, 0, 5])


def test_near_bins_have_near_features():
    """Distance grows over the first bins, and no far bin is nearer than the next one."""
    bins = jnp.arange(BINS)[None, :, None]
    features = np.asarray(control_features(bins, jnp.ones((1, 1), bool), BINS))[0, :, 0]
    one = np.linalg.norm(features[1:] - features[:-1], axis=-1)
    two = np.linalg.norm(features[2:] - features[:-2], axis=-1)
    four = np.linalg.norm(features[4:] - features[:-4], axis=-1)
    assert one.max() < two.min() < two.max() < four.min()
    for start in (0, 1000, 2048, 4000):
        far = np.linalg.norm(features - features[start], axis=-1)
        assert far[np.abs(np.arange(BINS) - start) > 8].min() > 3 * one.max()


def test_absent_slots_have_no_features():
    bins = jnp.full((1, 2, 3), 9)
    features = control_features(bins, jnp.array([[True, False, True]]), BINS)
    assert not features[:, :, 1].any()
    assert (features[:, :, 0] == features[:, :, 2]).all()
    assert (features[:, :, 0, 0] == 1).all()


def test_dropout_keeps_the_mean_and_is_off_without_a_key():
    x = jnp.ones(20_000)
    assert dropout(x, 0.3, None) is x
    y = dropout(x, 0.3, jax.random.key(0))
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.02)
