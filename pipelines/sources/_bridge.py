"""What the three releases of Bridge share: one arm, its actions, its cameras, and their fakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pipelines.episode import Control, Frame
from pipelines.ops.images import is_black
from schemas import DataError
from schemas.example import Example

FPS = 5.0
FRAMES_PER_EPISODE = 38  # mean of the release; only the plan's estimate rests on it

_MOVES = ("ee_dx", "ee_dy", "ee_dz")
_TURNS = ("ee_droll", "ee_dpitch", "ee_dyaw")

Image = Callable[[], np.ndarray]


def table(release: str, names: Iterable[str]) -> tuple[Control, ...]:
    """A release's seven action values: Δxyz, Δrpy, and the gripper from 0, closed, to 1, open.

    Args:
        release: goes before every name, since the releases' tables stand side by side.
        names: of the values in the release.
    """
    controls = []
    for name, slot in zip(names, (*_MOVES, *_TURNS, "gripper"), strict=True):
        name = f"{release} {name}"
        if slot in _MOVES:
            controls.append(Control(name=name, slot=slot, unit="m"))
        elif slot in _TURNS:
            # a turn across ±π is stored as almost a full turn the other way
            controls.append(Control(name=name, slot=slot, unit="rad", wrap=True))
        else:
            controls.append(Control(name=name, slot=slot, unit="1", low=0.0, high=1.0))
    return tuple(controls)


def motions(actions: np.ndarray, gripper: float) -> np.ndarray:
    """The control of each frame, float64 `[n + 1, 7]`: the action of step t leads to frame t + 1.

    Args:
        actions: float `[n, 7]`, without a last one whose outcome was not recorded.
        gripper: the first frame's, as its state says: 1 is open there too.
    """
    controls = np.zeros((len(actions) + 1, 7))
    controls[1:] = actions
    controls[0, 6] = np.clip(gripper, 0.0, 1.0)
    return controls


def instructions(fields: Example, name: str, n: int) -> list[str]:
    """The instruction of each of n frames: that of the step whose action led to it."""
    raw = fields.bytes_list(name)
    if len(raw) != n:
        raise DataError(f"{len(raw)} instructions for {n} actions")
    try:
        texts = [text.decode() for text in raw]
    except UnicodeDecodeError as e:
        raise DataError(f"the instruction is not UTF-8 ({e.reason} at byte {e.start})") from e
    return [texts[0], *texts[:-1]]


def used(images: Iterable[Image]) -> bool:
    """Whether a camera's frames show anything. Mostly a single decode tells."""
    return any(not is_black(image()) for image in images)


def frames(images: Sequence[Image], controls: np.ndarray, texts: Sequence[str]) -> list[Frame]:
    """The frames of one view at the recording's nominal rate: its clock jitters, its steps do
    not."""
    return [
        Frame(time=i / FPS, image=image, control=control, text=text)
        for i, (image, control, text) in enumerate(zip(images, controls, texts, strict=True))
    ]


def fake_push(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions and states float64 `[n, 7]`, frames uint8 `[n, 48, 64, 3]` of a square.

    Action t leads to frame t + 1: a pixel to the right is +0.01 m of x, one down +0.01 m of y.
    """
    where = np.clip(20 + np.cumsum(rng.integers(-3, 4, (n, 2)), 0), 0, [56, 40])
    actions = np.zeros((n, 7))
    actions[:-1, :2] = np.diff(where, axis=0) / 100
    actions[:-1, 2:6] = rng.uniform(-0.03, 0.03, (n - 1, 4))
    actions[:, 6] = rng.integers(0, 2, n)
    states = np.zeros((n, 7))
    states[:, :2] = where / 100
    states[1:, 6] = actions[:-1, 6]
    states[0, 6] = rng.uniform(0.9, 1.0)
    images = np.full((n, 48, 64, 3), 90, np.uint8)
    for image, (x, y) in zip(images, where, strict=True):
        image[y : y + 8, x : x + 8] = (220, 40, 40)
    return actions, states, images
