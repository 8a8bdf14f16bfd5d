"""`rollout`: a list of actions, each beginning where the one before ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

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

    @property
    def rows(self) -> list[tuple[str, np.ndarray]]:
        """Captions and frames of the start and of every action, for a contact sheet."""
        texts = (f"{i}. {text}" for i, text in enumerate(self.actions, 1))
        return [("start", self.start), *zip(texts, self.frames, strict=True)]


def stream(
    simulator: Simulator,
    starts: np.ndarray,
    actions: Iterable[Sequence[str]],
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """Simulates b episodes side by side, for as long as there are actions (UniSim, section 2.3).

    After each step the last frames, real or simulated, become the history of the next. Only frames
    are handed on: past actions are not conditioned on. What is kept is the history alone, so memory
    does not grow, and one program, compiled once, makes every step.

    Args:
        starts: uint8 `[b, n, h, w, 3]`, n >= 1, at the simulator's size. Several actions from one
            start are several equal starts.
        actions: b texts for every step.

    Yields:
        What follows each step's actions, uint8 `[b, T, h, w, 3]`.

    Raises:
        UsageError: if starts have another size, or a step has not b actions.
    """
    size = (simulator.tier.height, simulator.tier.width, 3)
    if starts.ndim != 5 or starts.shape[2:] != size or not starts.shape[0] * starts.shape[1]:
        shape, wanted = starts.shape[1:], (size[0], size[1], 3)
        raise UsageError(f"the start has shape {shape}, wanted (n, {', '.join(map(str, wanted))})")
    reach = max(simulator.history, default=1)
    seen = starts[:, -reach:]
    for i, texts in enumerate(actions):
        if len(texts) != len(starts):
            raise UsageError(f"step {i} has {len(texts)} actions for {len(starts)} starts")
        history, mask = past_frames(seen.swapaxes(0, 1), simulator.history)
        masks = np.broadcast_to(mask, (len(starts), len(mask)))
        key = jax.random.fold_in(jax.random.key(seed), i)
        new = simulator.step(history.swapaxes(0, 1), masks, texts, key)
        yield new
        seen = np.concatenate([seen, new], 1)[:, -reach:]


def rollout(
    simulator: Simulator,
    start: np.ndarray,
    actions: Sequence[str],
    seed: int = 0,
    done: Callable[[int], None] = lambda _: None,
) -> Rollout:
    """Simulates the actions one after another, and keeps all of it; see `stream`.

    Args:
        start: uint8 `[n, h, w, 3]`, n >= 1, at the simulator's size.
        done: called with the number of actions simulated so far.

    Raises:
        UsageError: if there is no action, or the start has another size.
    """
    if not actions:
        raise UsageError("no --action was given; say what is done, as in 'push the red block'")
    frames = []
    for new in stream(simulator, start[None], [[action] for action in actions], seed):
        frames.append(new[0])
        done(len(frames))
    return Rollout(start=start, actions=tuple(actions), frames=tuple(frames))
