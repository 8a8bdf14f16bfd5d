"""The panoramas that are cropped, and what their crops should be.

The picture is a function of directions, so that it is proper at the poles, whatever form it is put
into: a texture with the spectrum of natural images (amplitude 1/f), discs with sharp edges, and
signs of text, lines and checkerboards.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import cv2
import numpy as np

from pipelines.ops.panorama import equirectangular_rays, face_rays
from pipelines.ops.view import View

SAMPLES = 8  # along each side of a pixel, in the reference
_SCALE = 652  # texels per unit of length, as a panorama 4096 wide has pixels per radian
_SIGN = 156  # texels along a sign's edge
_BAND = 64  # rows at once

Locate = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def turn(yaw: float, pitch: float) -> np.ndarray:
    """Camera to panorama, both OpenCV `[3, 3]`: degrees to the right and upwards."""
    y, p = math.radians(yaw), math.radians(pitch)
    right = [[math.cos(y), 0, math.sin(y)], [0, 1, 0], [-math.sin(y), 0, math.cos(y)]]
    up = [[1, 0, 0], [0, math.cos(p), -math.sin(p)], [0, math.sin(p), math.cos(p)]]
    return np.array(right) @ np.array(up)


def equirectangular(height: int) -> np.ndarray:
    """The picture as one image: uint8 `[height, 2 * height, 3]`."""
    return _painted(equirectangular_rays(height))


def faces(size: int) -> np.ndarray:
    """The picture as six faces with a pixel more on every side: uint8 `[6, size + 2, size + 2, 3]`,
    so that the reference knows what lies over the edge."""
    return np.stack([_painted(face_rays(i, size, margin=1)) for i in range(6)])


def reference(image: np.ndarray, locate: Locate, pose: np.ndarray, view: View) -> np.ndarray:
    """A crop as it should be, float64 `[height, width, 3]`: `SAMPLES`² bilinear samples of the full
    resolution per pixel, averaged.

    Args:
        image: `[h, w, 3]`.
        locate: unit directions in the panorama's frame to rows and columns of `image`, where a
            pixel's middle is a whole number.
        pose: `[3, 3]`, camera to panorama.
        view: the camera.
    """
    fine = View(height=view.height * SAMPLES, width=view.width * SAMPLES, fov=view.fov).rays()
    out = np.empty((view.height, view.width, 3))
    for row in range(view.height):
        rays = fine[row * SAMPLES : (row + 1) * SAMPLES] @ pose.T
        drawn = _bilinear(image, *locate(rays))
        out[row] = drawn.reshape(SAMPLES, view.width, SAMPLES, 3).mean((0, 2))
    return out


def with_border(image: np.ndarray) -> np.ndarray:
    """An equirectangular image with a pixel more on every side: left and right meet, and beyond a
    pole is the other side."""
    half = image.shape[1] // 2
    tall = np.concatenate([np.roll(image[:1], half, 1), image, np.roll(image[-1:], half, 1)])
    return np.concatenate([tall[:, -1:], tall, tall[:, :1]], 1)


def in_equirectangular(height: int) -> Locate:
    """Directions in an image `with_border` that is `height` high without it."""

    def locate(rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = np.moveaxis(rays, -1, 0)
        longitude, latitude = np.arctan2(x, z), np.arctan2(-y, np.hypot(x, z))
        row = (0.5 - latitude / math.pi) * height + 0.5
        return row, (longitude / math.pi + 1) * height + 0.5

    return locate


def in_faces(size: int) -> Locate:
    """Directions in `faces` of that size, laid below each other."""

    def locate(rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y, z = np.moveaxis(rays, -1, 0)
        places = [(x, y, z), (-z, y, x), (-x, y, -z), (z, y, -x), (x, z, -y), (x, -z, y)]
        forward = np.stack([place[2] for place in places])
        face = forward.argmax(0)
        far = forward.max(0)
        right = np.choose(face, [place[0] for place in places]) / far
        down = np.choose(face, [place[1] for place in places]) / far
        row = face * (size + 2) + (down + 1) * size / 2 + 0.5
        return row, (right + 1) * size / 2 + 0.5

    return locate


def psnr(image: np.ndarray, wanted: np.ndarray) -> float:
    """Peak signal to noise in dB, of 255."""
    return 10 * math.log10(255**2 / float(np.square(image - wanted).mean()))


def _bilinear(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    h, w = image.shape[:2]
    flat = image.reshape(-1, 3)
    top = np.clip(np.floor(row).astype(np.int64), 0, h - 2)
    left = np.clip(np.floor(column).astype(np.int64), 0, w - 2)
    down, right = (row - top)[..., None], (column - left)[..., None]
    at = top * w + left
    above = flat[at] * (1 - right) + flat[at + 1] * right
    below = flat[at + w] * (1 - right) + flat[at + w + 1] * right
    return above * (1 - down) + below * down


def _painted(rays: np.ndarray) -> np.ndarray:
    """What is seen in these directions `[h, w, 3]`."""
    texture, signs, discs = _texture(), _signs(), _discs()
    out = np.empty(rays.shape, np.uint8)
    for start in range(0, len(rays), _BAND):
        band = rays[start : start + _BAND]
        band = (band / np.linalg.norm(band, axis=-1, keepdims=True)).astype(np.float32)
        colour = _textured(band, texture)
        for middle, cosine, shade in discs:
            inside = np.clip((band @ middle - cosine) * _SCALE + 0.5, 0, 1)
            colour += inside[..., None] * shade
        for pose, sign in signs:
            _put(colour, band, pose, sign)
        out[start : start + _BAND] = np.clip(colour + 0.5, 0, 255)
    return out


@functools.cache
def _texture() -> np.ndarray:
    """Noise of amplitude 1/f, most of it grey: float32 `[2048, 2048, 3]`, mean 0."""
    size = 2048
    rng = np.random.default_rng(4)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    f[0, 0] = np.inf
    grey, *tints = (
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / f) for _ in range(4)
    )
    texture = np.stack([grey + 0.3 * tint for tint in tints], -1)
    return (texture * (28 / texture.std())).astype(np.float32)


def _textured(band: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """The texture projected along each of the three axes, and added up."""
    colour = np.full(band.shape, 128, np.float32)
    middle = np.float32(len(texture) / 2)
    for i in range(3):
        u, v = (np.ascontiguousarray(band[..., (i + k) % 3]) * _SCALE + middle for k in (1, 2))
        projected = cv2.remap(texture, u, v, cv2.INTER_LINEAR)
        colour += np.roll(projected, i, -1) * (1 + 0.3 * band[..., i : i + 1])
    return colour


def _discs() -> list[tuple[np.ndarray, float, np.ndarray]]:
    """Round patches: the middle `[3]`, the cosine of the radius, what is added to the colour."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(12):
        middle = rng.standard_normal(3)
        radius, shade = rng.uniform(0.2, 0.7), rng.uniform(-70, 70, 3)
        middle = (middle / np.linalg.norm(middle)).astype(np.float32)
        found.append((middle, math.cos(radius), shade.astype(np.float32)))
    return found


def _signs() -> list[tuple[np.ndarray, np.ndarray]]:
    """26 signs all around, poles and seam among them: right, down and forward as the rows of a
    rotation `[3, 3]`, and the image."""
    found = []
    for i, place in enumerate(p for p in itertools.product((-1, 0, 1), repeat=3) if any(p)):
        x, y, z = place
        pose = turn(math.degrees(math.atan2(x, z)), math.degrees(math.atan2(-y, math.hypot(x, z))))
        found.append((pose.T.astype(np.float32), _sign(i)))
    return found


def _sign(number: int) -> np.ndarray:
    """Text, lines and checkerboards: float32 `[_SIGN, _SIGN, 3]`."""
    rng = np.random.default_rng([6, number])
    dark, light = (int(rng.integers(*span)) for span in ((10, 90), (160, 245)))
    rows, columns = np.mgrid[:_SIGN, :_SIGN]
    half, cell, period = _SIGN // 2, int(rng.choice([3, 5, 9])), int(rng.choice([4, 7, 12]))
    checks = (rows // cell + columns // cell) % 2
    lines = ((columns if number % 2 else rows + columns) % period) < period / 2
    sign = np.where(columns < half, checks, lines) * (light - dark) + dark
    sign[:half] = light
    sign = np.repeat(sign[..., None], 3, -1).astype(np.uint8)
    for line in range(3):
        text = f"view {number:02d} {'ROOM door exit'.split()[line]}"
        cv2.putText(sign, text, (4, 20 + 24 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (dark,) * 3, 1)
    return sign.astype(np.float32)


def _put(colour: np.ndarray, band: np.ndarray, pose: np.ndarray, sign: np.ndarray) -> None:
    """Draws a sign on the plane that touches the sphere in its middle."""
    near = band @ pose[2] > 0.9
    if not near.any():
        return
    right, down, forward = pose @ band[near].T
    middle = (_SIGN - 1) / 2
    u, v = (a / forward * _SCALE + middle for a in (right, down))
    inside = np.maximum(np.abs(u - middle), np.abs(v - middle)) < _SIGN / 2
    rows, columns = (places[inside] for places in np.nonzero(near))
    u, v = (np.clip(a[inside], 0, _SIGN - 1) for a in (u, v))
    colour[rows, columns] = _bilinear(sign, v, u)
