"""A tabletop world in which an arm tip pushes coloured blocks under continuous Δx Δy.

The table is 1.0 m wide and 0.6 m deep; x grows to the right and y away from the camera, up in the
image. The tip moves freely; a block that it meets moves along with it.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np

WIDTH, DEPTH = 1.0, 0.6
BLOCK, TIP = 0.06, 0.035  # half a block's side, the tip's radius, metres
STEP = 0.04  # the farthest that the tip moves in one step, metres

COLOURS = {
    "red": (214, 60, 52),
    "green": (70, 160, 80),
    "blue": (58, 96, 200),
    "yellow": (232, 190, 60),
}
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, 1.0), "down": (0.0, -1.0)}
TABLE, _ARM = (222, 214, 200), (60, 60, 64)
_SHIFT = 4  # OpenCV draws with 2**-4 pixel positions


class Pushed(NamedTuple):
    """An episode: float `[t, 2]` moves in metres (the last one is not carried out), float `[t, 2]`
    tip positions, uint8 `[t, h, w, 3]` frames, and the instruction."""

    moves: np.ndarray
    tips: np.ndarray
    frames: np.ndarray
    text: str


@dataclasses.dataclass
class Tabletop:
    """The world's state.

    Attributes:
        tip: float `[2]`, metres.
        blocks: colour name -> float `[2]`, the block's middle in metres.
    """

    tip: np.ndarray
    blocks: dict[str, np.ndarray]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Tabletop:
        """Three blocks and the tip, apart from each other."""
        while True:
            # all at once: placing one after another can leave no room for the last
            places = rng.uniform([0.15, 0.13], [WIDTH - 0.15, DEPTH - 0.13], (4, 2))
            gaps = np.abs(places[:, None] - places[None]).max(-1) + np.eye(4)
            if gaps.min() > 2.4 * BLOCK:
                break
        names = rng.permutation(list(COLOURS))[:3]
        return cls(places[0], dict(zip(names.tolist(), places[1:], strict=True)))

    def move(self, delta: np.ndarray) -> None:
        """Moves the tip by `[dx, dy]` metres; blocks in its way move with it, within the table."""
        self.tip = np.clip(self.tip + delta, TIP, [WIDTH - TIP, DEPTH - TIP])
        self._push(self.tip, BLOCK + TIP, delta, skip="")

    def _push(self, by: np.ndarray, reach: float, delta: np.ndarray, skip: str) -> None:
        axis = int(np.argmax(np.abs(delta)))
        for name, block in self.blocks.items():
            gap = block - by
            if name == skip or (np.abs(gap) >= reach).any():
                continue
            side = np.sign(delta[axis]) or 1.0
            moved = block.copy()
            moved[axis] = by[axis] + side * reach
            limit = [WIDTH - BLOCK, DEPTH - BLOCK]
            self.blocks[name] = np.clip(moved, BLOCK, limit)
            if not skip:
                self._push(self.blocks[name], 2 * BLOCK, delta, skip=name)


def render(world: Tabletop, height: int, width: int) -> np.ndarray:
    """The world from above, uint8 `[height, width, 3]`, anti-aliased."""
    image = np.full((height, width, 3), TABLE, np.uint8)
    scale = np.array([width / WIDTH, -height / DEPTH])
    origin = np.array([0.0, float(height)])

    def at(point: np.ndarray) -> tuple[int, int]:
        x, y = np.round((origin + scale * point - 0.5) * 2**_SHIFT).astype(int)
        return int(x), int(y)

    for name in sorted(world.blocks):
        block = world.blocks[name]
        corners = block + BLOCK * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        polygon = np.array([at(corner) for corner in corners], np.int32)
        cv2.fillPoly(image, [polygon], COLOURS[name], cv2.LINE_AA, _SHIFT)
    radius = round(TIP * width / WIDTH * 2**_SHIFT)
    cv2.circle(image, at(world.tip), radius, _ARM, -1, cv2.LINE_AA, _SHIFT)
    return image


def push_episode(rng: np.random.Generator, height: int, width: int) -> Pushed:
    """One episode: the tip goes behind a block, then pushes it the way the instruction says.

    Tries again until the block went there and nothing else moved.
    """
    while True:
        world = Tabletop.random(rng)
        colour = str(rng.choice(sorted(world.blocks)))
        word = str(rng.choice(sorted(DIRECTIONS)))
        before = {name: block.copy() for name, block in world.blocks.items()}
        moves, tips, frames = [], [], [render(world, height, width)]
        for target in _route(world, colour, np.array(DIRECTIONS[word]), rng):
            while np.linalg.norm(target - world.tip) > 0.005 and len(moves) < 60:
                tips.append(world.tip.copy())
                moves.append(approach(world, target, rng))
                frames.append(render(world, height, width))
        shifts = {name: world.blocks[name] - place for name, place in before.items()}
        pushed = shifts.pop(colour)
        along = float(np.dot(pushed, DIRECTIONS[word]))
        across = float(np.abs(pushed).sum()) - along
        if along > 0.08 and across < 0.02 and not any(s.any() for s in shifts.values()):
            break
    tips.append(world.tip.copy())
    moves.append(np.zeros(2))
    text = f"push the {colour} block {word}"
    return Pushed(np.array(moves), np.array(tips), np.stack(frames), text)


def _route(
    world: Tabletop, colour: str, way: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Where the tip goes: around the block if it is in front of it, behind it, and forward."""
    reach = BLOCK + TIP
    behind = world.blocks[colour] - way * (reach + 0.02)
    forward = behind + way * (0.02 + rng.uniform(0.1, 0.2))
    if np.dot(world.tip - behind, way) <= 0:
        return [behind, forward]
    across = np.array([-way[1], way[0]])
    side = across * (np.sign(np.dot(across, world.tip - behind)) or 1.0)
    beside = world.blocks[colour] + side * (reach + 0.03) + way * np.dot(world.tip - behind, way)
    return [beside, behind + side * (reach + 0.03), behind, forward]


def approach(
    world: Tabletop, target: np.ndarray, rng: np.random.Generator, step: float = STEP
) -> np.ndarray:
    """One step of the tip towards the target, a little shaky; the move that came of it."""
    delta = target - world.tip
    delta = delta * min(1.0, step / float(np.linalg.norm(delta)))
    before = world.tip
    world.move(delta + rng.normal(0, 0.001, 2))
    return world.tip - before
