"""`rollout`: a list of actions, each beginning where the one before ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from schemas import UsageError
from trainer.data.example import past_frames
from trainer.simulate.simulator import Simulator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """A simulated episode.

    Attributes:
        start: uint8 `[n, h, w, 3]`, what was seen before the first action.
        actions: texts.
        frames: what followed each action, uint8 `[T, h, w, 3]`.
    """

    start: np.ndarray
    actions: tuple[str, ...]
    frames: tuple[np.ndarray, ...]

    @property
    def video(self) -> np.ndarray:
        """Everything in order, uint8 `[n + actions · T, h, w, 3]`."""
        return np.concatenate([self.start, *self.frames])


def rollout(
    simulator: Simulator,
    start: np.ndarray,
    actions: Sequence[str],
    seed: int = 0,
    done: Callable[[int], None] = lambda _: None,
) -> Rollout:
    """Simulates the actions one after another (UniSim, section 2.3).

    After each, the last frames, real or simulated, become the history of the next. Only frames are
    handed on: past actions are not conditioned on.

    Args:
        start: uint8 `[n, h, w, 3]`, n >= 1, at the simulator's size.
        done: called with the number of actions simulated so far.

    Raises:
        UsageError: if there is no action, or the start has another size.
    """
    if not actions:
        raise UsageError("no --action was given; say what is done, as in 'push the red block'")
    size = (simulator.tier.height, simulator.tier.width, 3)
    if start.ndim != 4 or start.shape[1:] != size or not len(start):
        raise UsageError(f"the start has shape {start.shape}, wanted (n, {size[0]}, {size[1]}, 3)")
    seen, frames = start, []
    for i, action in enumerate(actions):
        history, mask = past_frames(seen, simulator.history)
        key = jax.random.fold_in(jax.random.key(seed), i)
        new = simulator.step(history[None], mask[None], [action], key)[0]
        frames.append(new)
        seen = np.concatenate([seen, new])[-max(simulator.history, default=1) :]
        done(i + 1)
    return Rollout(start=start, actions=tuple(actions), frames=tuple(frames))
