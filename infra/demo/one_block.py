"""One block and five commands: a tabletop world in which it can be measured what a video obeys.

From one start every command can be carried out, each in one segment of `FRAMES` frames.
"""

from __future__ import annotations

import copy

import numpy as np

from infra.demo.tabletop import (
    BLOCK,
    COLOURS,
    DIRECTIONS,
    TABLE,
    TIP,
    Pushed,
    Tabletop,
    approach,
    render,
)

FRAMES = 8
STAY = "stay"
COMMANDS = {**{f"push {word}": np.array(way) for word, way in DIRECTIONS.items()}, STAY: None}
"""Text -> the way that the block goes, x to the right and y up; None if it does not move."""

_STEP = 0.1  # the farthest that the tip moves from frame to frame, metres
_AROUND = 0.24  # how far from the block the tip may start, along x and y


def start(rng: np.random.Generator) -> Tabletop:
    """A block of any colour in the middle of the table, and the tip somewhere around it."""
    colour = str(rng.choice(sorted(COLOURS)))
    while True:
        block = rng.uniform([0.3, 0.25], [0.7, 0.35])
        tip = block + rng.uniform(-_AROUND, _AROUND, 2)
        inside = (tip > 0.05).all() and (tip < [0.95, 0.55]).all()
        if inside and np.abs(tip - block).max() > BLOCK + TIP + 0.02:
            return Tabletop(tip, {colour: block})


def carry_out(
    world: Tabletop, command: str, rng: np.random.Generator, height: int, width: int
) -> Pushed | None:
    """What follows a command: the start's frame and `FRAMES` more; None if they are too few, or the
    block went another way. Changes the world."""
    (colour,) = world.blocks
    before, way = world.blocks[colour].copy(), COMMANDS[command]
    tips, moves, frames = [], [], [render(world, height, width)]

    def step(target: np.ndarray) -> None:
        tips.append(world.tip.copy())
        moves.append(approach(world, target, rng, _STEP))
        frames.append(render(world, height, width))

    for target in [] if way is None else _route(world.tip, before, way, rng):
        while np.linalg.norm(target - world.tip) > 0.005:
            if len(moves) == FRAMES:
                return None
            step(target)
    while len(moves) < FRAMES:
        step(world.tip + 1e-6)
    tips.append(world.tip.copy())
    moves.append(np.zeros(2))
    shift = world.blocks[colour] - before
    if way is None:
        did = not shift.any()
    else:
        along = float(shift @ way)
        did = along > 0.08 and float(np.abs(shift).sum()) - along < 0.02
    return Pushed(np.array(moves), np.array(tips), np.stack(frames), command) if did else None


def _route(
    tip: np.ndarray, block: np.ndarray, way: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Where the tip goes: straight out to the block's side and past it if it is in front of it,
    then behind it, and forward."""
    reach = BLOCK + TIP
    behind = block - way * (reach + 0.02)
    forward = behind + way * (0.02 + rng.uniform(0.1, 0.2))
    ahead = float((tip - behind) @ way)
    if ahead <= 0:
        return [behind, forward]
    across = np.array([-way[1], way[0]])
    off = float((tip - behind) @ across)
    side = across * (np.sign(off) or 1.0) * max(abs(off), reach + 0.02)
    return [behind + side + way * ahead, behind + side, behind, forward]


def episode(rng: np.random.Generator, height: int, width: int) -> Pushed:
    """A random start and a random command, tried again until it can be carried out; all commands
    are equally frequent."""
    command = str(rng.choice(sorted(COMMANDS)))
    while True:
        found = carry_out(start(rng), command, rng, height, width)
        if found is not None:
            return found


def counterfactuals(rng: np.random.Generator, height: int, width: int) -> list[Pushed]:
    """What follows each command, in the order of `COMMANDS`, from one and the same start."""
    while True:
        world = start(rng)
        found = [carry_out(copy.deepcopy(world), c, rng, height, width) for c in COMMANDS]
        if all(found):
            return found  # type: ignore[return-value]


def block_at(frames: np.ndarray, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """Where the block of a colour is, as float `[..., 2]` = (x to the right, y up) in pixels, and
    how many pixels of it are seen, float `[...]`.

    A pixel counts by the share of the block's colour in it, as between the table's and the block's.

    Args:
        frames: uint8 `[..., h, w, 3]`.
    """
    table, block = np.array(TABLE, float), np.array(COLOURS[colour], float)
    towards, pixels = block - table, frames.astype(float) - table
    share = pixels @ towards / (towards @ towards)
    off = np.linalg.norm(pixels - share[..., None] * towards, axis=-1) / 255
    weight = np.clip(share, 0, 1) * np.exp(-np.square(off / 0.25))
    weight = np.where(weight > 0.25, weight, 0)
    height, width = frames.shape[-3:-1]
    seen = weight.sum((-1, -2))
    x = (weight * np.arange(width)).sum((-1, -2)) / np.maximum(seen, 1e-6)
    y = (weight * np.arange(height)[:, None]).sum((-1, -2)) / np.maximum(seen, 1e-6)
    return np.stack([x, -y], -1), seen


def colour_of(frame: np.ndarray) -> str:
    """The colour of the block in a frame, uint8 `[h, w, 3]`."""
    return max(COLOURS, key=lambda colour: float(block_at(frame, colour)[1]))


def obeys(command: str, before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a block that is in frame `before` is, in frame `after`, where the command sends it.

    For "stay" it is within half a pixel of where it was. Else it has gone at least a pixel the
    commanded way, and at most half as far across. In both cases it is still as large, to a factor
    of two. Frames are uint8 `[h, w, 3]`.
    """
    colour = colour_of(before)
    (old, size), (new, left) = block_at(before, colour), block_at(after, colour)
    if not size / 2 < left < 2 * size:
        return False
    shift, way = new - old, COMMANDS[command]
    if way is None:
        return bool(np.abs(shift).max() < 0.5)
    along = float(shift @ way)
    across = float(np.linalg.norm(shift - along * way))
    return along >= 1 and across <= along / 2
