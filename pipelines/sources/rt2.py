"""RT-2: RT-1's episodes, with each action as the string of eight integers that RT-2 speaks.

RT-2 has no public dataset of its own. Its string is written from RT-1's action, or read where a
record has one already (`steps/action` a string per step, as a policy's own rollouts may keep it).
Either way the text of a frame is the string that led to it, and its slots are what the string says:
RT-1's values to within half a bin. The instruction, which is RT-2's input, is not part of it.

A string is the action of one step. So every frame is kept, and a frame that follows on a string of
its own is a chunk of its own. Below 3 Hz a string would be that of the newest step alone, so such a
plan is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.episode import UNIT_BYTES, Control, Episode, SourceInfo, Unit
from pipelines.ops import rt2_string
from pipelines.sources import _rlds, rt1
from schemas import DataError, UsageError

_LEAST = rt2_string.decode(" ".join(["1"] + ["0"] * 7)).values
_GREATEST = rt2_string.decode(" ".join(["1"] + ["255"] * 7)).values
# the seven of RT-1's controls that RT-2 speaks of, within what a string can say
_CONTROLS = tuple(
    Control(
        name=name, slot=control.slot, unit=control.unit, low=low, high=high, scale=control.scale
    )
    for name, control, low, high in zip(
        rt2_string.NAMES,
        rt1.INFO.controls[:7],
        _LEAST.tolist(),
        _GREATEST.tolist(),
        strict=True,
    )
)
_STILL = rt2_string.encode(np.zeros(7))

INFO = SourceInfo(
    name="rt2",
    title="RT-2's action strings on RT-1's episodes",
    homepage="https://robotics-transformer2.github.io",
    license=rt1.INFO.license,
    version=rt1.INFO.version,
    reads=f"{rt1.INFO.reads}, or one with action strings",
    layout=f"""\
{rt1.INFO.layout}
steps/action holds either RT-1's fields or a string per step: "1 128 91 241 5 101 127 217".""",
    obtain=f"""\
RT-2 published no data; its actions are written from RT-1's.
{rt1.INFO.obtain}""",
    native_fps=3.0,
    target_fps=None,
    controls=_CONTROLS,
    every_frame=True,
    fit="stretch",
)


def units(path: str, target_bytes: int = UNIT_BYTES) -> Iterator[Unit]:
    """Byte ranges of the TFRecord files of RT-1's release, or of one with action strings.

    Raises:
        UsageError: if it is neither.
    """
    folder = _rlds.folder(INFO.name, path)
    fields = ("world_vector", "rotation_delta", "gripper_closedness_action", "terminate_episode")
    has_fields = all(_rlds.has_feature(folder, "action", field) for field in fields)
    # a flat action may be a string; that it is, each record shows
    has_flat = _rlds.has_feature(folder, "action") and not any(
        _rlds.has_feature(folder, "action", field) for field in fields
    )
    if not _rlds.has_feature(folder, "observation", "image") or not (has_fields or has_flat):
        raise UsageError(
            f"{path}: features.json has not RT-1's steps/observation/image and steps/action/"
            f"{{{', '.join(fields)}}}, nor a string as steps/action; `unisim sources {INFO.name}`"
            " shows what is expected"
        )
    yield from _rlds.units(folder, target_bytes, rt1.STEPS_PER_EPISODE)


def episodes(unit: Unit) -> Iterator[Episode | DataError]:
    """Every trajectory of the unit whose actions RT-2 can speak of, without its padding."""
    yield from _rlds.episodes(unit, lambda raw: [_episode(rt1.Steps(raw))])


def _episode(steps: rt1.Steps) -> Episode:
    """The terminal step's action means nothing, so t frames have t - 1 strings between them."""
    if "steps/action" in steps.raw.example:
        texts = [_STILL, *steps.strings("action")[:-1]]
        commands = np.zeros((len(texts), 7))
    else:
        commands = rt1.led_here(steps.actions()[:, :7].astype(np.float64))
        ends = [False, *_terminates(steps)]
        texts = [rt2_string.encode(*pair) for pair in zip(commands, ends, strict=True)]
    values = np.stack([rt2_string.decode(text).values for text in texts])
    # a command that no string can say stays as it is: it is clipped to the same, and then counted
    outside = (commands < rt2_string.LOW - 1e-6) | (commands > rt2_string.HIGH + 1e-6)
    return steps.episode(_CONTROLS, np.where(outside, commands, values), texts)


def _terminates(steps: rt1.Steps) -> np.ndarray:
    """Bool `[t - 1]`: whether each step but the last says that the episode ends.

    Raises:
        DataError: if the base is driven, which the string has no place for.
    """
    classes = steps.numbers("action/terminate_episode", 3)[:-1]
    if not np.isin(classes, (0, 1)).all() or (classes.sum(1) != 1).any():
        raise DataError("terminate_episode is not one of three classes at each step", stage="act")
    if classes[:, 2].any():
        reason = "the base is driven, of which RT-2's string does not speak"
        raise DataError(reason, stage="act", counts=False)
    return classes[:, 0] == 1


def fake(root: Path, seed: int, *, traps: bool = True) -> Path:
    """RT-1's fake: the same episodes, and the same traps."""
    return rt1.fake(root, seed, traps=traps)
