"""`TrainConfig`: everything that decides what a training run computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_origin, get_type_hints

from schemas import Tier, UsageError, did_you_mean
from trainer.diffusion import Clip, CosineSchedule, Prediction
from trainer.model import ModelConfig

PAPER_WEIGHTS = {
    "habitat": 0.1,
    "rt1": 0.1,
    "ego4d": 0.1,
    "something_something_v2": 0.1,
    "epic_kitchens": 0.1,
    "matterport3d": 0.1,
    "bridge": 0.05,
    "rt2": 0.05,
    "language_table": 0.05,
    "laion": 0.05,
}
"""The paper's mixture weights, by the names of our sources (0.05 for those unnamed)."""

# what a run may change when it is resumed: how long, how noisily and where it runs, not what it
# computes
FREE = (
    "steps",
    "save_every",
    "keep",
    "keep_every",
    "spike",
    "prefetch",
    "validate_every",
    "sample_every",
    "log_every",
    "read_threads",
    "model_axis",
)
# what it may change too, as its checkpoints tell what it was at each step
MIXTURE = ("weights", "temperature")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run. "Open" marks what the paper leaves unpublished: the value is our choice.

    Equal configs, tables and numbers of steps give equal parameters, bit for bit, on one CPU.
    """

    model: ModelConfig
    """The video U-Net."""

    tier: str = "24x40"
    """Resolution of the table to train on, HEIGHTxWIDTH."""

    frames: int = 16
    """Frames that one step of the simulator produces; shorter rows are padded and masked, longer
    ones are cut."""

    history: Literal["recent", "distant", "single"] = "recent"
    """Which past frames condition the next ones: the last ones, exponentially spaced ones, or the
    last one alone, which wants --model.history-frames 1."""

    tokens: int = 64
    """Tokens of the action: text, cut if it is longer, then one per frame for its controls."""

    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """Mixture: NAME WEIGHT pairs. Empty weighs all datasets alike; datasets not named get 0.05; 0
    leaves one out. A resumed run may have others from then on."""

    temperature: float = 1.0
    """Of the mixture: weights are raised to its inverse, so that above 1 they are more even. A
    resumed run may have another from then on."""

    where: str = ""
    """Only rows that fulfil this condition in SQL on the table's index, such as
    "source = 'bridge' and num_frames >= 8 and licence != 'CC-BY-NC-4.0'"."""

    exclude: str = ""
    """A Parquet file of auditors' verdicts: records that they rejected are not shown, not even as
    history."""

    windows: Literal["actions", "any"] = "actions"
    """Where samples begin: with a row's action, or at any frame, with the controls of the frames
    that follow."""

    batch_size: int = 256
    """Samples of a step, over all processes."""

    accumulate: int = 1
    """Parts in which a step sees its batch, one after another: memory for time."""

    steps: int = 1_000_000
    """Optimiser steps of the whole run, those before a resume included."""

    seed: int = 0
    """Of the initial parameters, the order of samples, and all noise."""

    learning_rate: float = 1e-4
    """Adam's step size."""

    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0, linearly. Open."""

    adam_b1: float = 0.9
    """Adam's decay of the first moment."""

    adam_b2: float = 0.99
    """Adam's decay of the second moment."""

    weight_decay: float = 0.0
    """Decoupled weight decay."""

    clip_norm: float = 0.0
    """Gradients with a larger global norm are scaled down to it; 0 never scales. Open."""

    ema_decay: float = 0.9999
    """Decay of the moving average of the parameters, which is what simulates."""

    action_dropout: float = 0.1
    """Share of samples that see no action (but their history), for guidance. Open."""

    single_action: float = 0.0
    """Share of samples with text and controls that see only one of the two, drawn evenly, so that
    either alone is obeyed. Open."""

    log_snr_min: float = -20.0
    """Log signal-to-noise ratio at the end of the cosine schedule."""

    log_snr_max: float = 20.0
    """Log signal-to-noise ratio at its beginning."""

    log_snr_shift: float = 0.0
    """Moves the log signal-to-noise ratio at which most time is spent; below 0 there is more noise,
    as small frames want. The ends stay."""

    prediction: Prediction = "noise"
    """What the loss is the error of: the noise (Table 6), or velocity, which weighs noisy levels
    more."""

    clip: Clip = "static"
    """How samplers bound what they predict: to [-1, 1], by a quantile of the video itself
    (dynamic), or not."""

    low_noise: float = 0.5
    """Super-resolution: the low-resolution video is noised to a time between 0 and this one of the
    schedule. Open."""

    model_axis: int = 1
    """Devices that share a sample, each with some of its frames; it must divide frames. The others
    each take other samples."""

    save_every: int = 5000
    """Steps between checkpoints; the last step is always saved."""

    keep: int = 3
    """Checkpoints kept; older ones are deleted."""

    keep_every: int = 0
    """Checkpoints of steps that are multiples of it are kept for good; 0 keeps none for that."""

    spike: float = 10.0
    """A loss so many times the highest of the 100 steps before stops the run; 0 never does."""

    prefetch: int = 2
    """Batches that are put on the devices ahead."""

    validate_every: int = 0
    """Steps between validations on split val; 0 never validates."""

    sample_every: int = 0
    """Steps between videos that the averaged model makes of starts in split val, which TensorBoard
    shows beside what happened; 0 makes none."""

    log_every: int = 100
    """Steps between progress lines."""

    read_threads: int = 0
    """Threads that read batches ahead; 0 is one for raw frames, which more would only slow down,
    and one per core for JPEG. The samples do not depend on it."""

    def __post_init__(self):
        positive = ("frames", "tokens", "batch_size", "steps", "save_every", "keep", "log_every")
        positive += ("model_axis", "accumulate", "prefetch")
        for name in positive:
            if getattr(self, name) < 1:
                raise UsageError(f"{_flag(name)} is {getattr(self, name)}, wanted 1 or more")
        free = ("warmup_steps", "weight_decay", "clip_norm", "read_threads", "keep_every", "spike")
        free += ("validate_every", "sample_every")
        for name in free:
            if not getattr(self, name) >= 0:
                raise UsageError(f"{_flag(name)} is {getattr(self, name)}, wanted 0 or more")
        for name in (
            "adam_b1",
            "adam_b2",
            "ema_decay",
            "action_dropout",
            "single_action",
            "low_noise",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{_flag(name)} is {getattr(self, name)}, wanted 0..1")
        for name in ("learning_rate", "temperature"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{_flag(name)} is {getattr(self, name)}, wanted more than 0")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed is {self.seed}, wanted 0..{2**32 - 1}")
        try:
            Tier.parse(self.tier)
        except ValueError as e:
            raise UsageError(f"--tier: {e}; wanted such as 24x40") from e
        if not self.log_snr_min < self.log_snr_max:
            raise UsageError("--log-snr-min must be below --log-snr-max")
        self._check_together()

    def _check_together(self):
        if self.batch_size % self.accumulate:
            raise UsageError(
                f"--accumulate {self.accumulate} does not divide --batch-size {self.batch_size}"
            )
        if self.tokens < self.frames:
            raise UsageError(
                f"--tokens {self.tokens} have no room for the controls of {self.frames} frames;"
                " raise --tokens, or lower --frames"
            )
        if self.history == "single" and self.model.history_frames != 1:
            raise UsageError(
                f"--history single is one frame, but --model.history-frames is"
                f" {self.model.history_frames}; state 1"
            )

    @property
    def schedule(self) -> CosineSchedule:
        """Of the noise."""
        return CosineSchedule(
            log_snr_min=self.log_snr_min, log_snr_max=self.log_snr_max, shift=self.log_snr_shift
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> TrainConfig:
        """The inverse of `to_dict`, of a config that was read from the file `where`.

        Raises:
            UsageError: if its fields are not those of this version.
        """
        try:
            model = _build(ModelConfig, values["model"])
            return _build(cls, {**values, "model": model})
        except (KeyError, TypeError, ValueError) as e:
            raise UsageError(
                f"{where}: not a config of this version ({e}); use the version that wrote it"
            ) from e


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What two configs (as of `to_dict`) differ in, "batch_size 8 -> 16", but for `FREE` fields
    and the mixture."""
    found = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        if not prefix and name in (*FREE, *MIXTURE):
            continue
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{name}.")
        elif _plain(a) != _plain(b):
            found.append(f"{prefix}{name} {a} -> {b}")
    return found


def check_weights(weights: Mapping[str, float], datasets: list[str]) -> None:
    """Raises UsageError for a weight of a dataset that the table lacks. The paper's weights are for
    any table that has some of its datasets."""
    for name in weights if dict(weights) != PAPER_WEIGHTS else ():
        if name not in datasets:
            raise UsageError(
                f"--weights: the table has no dataset {name!r}, {did_you_mean(name, datasets)}"
            )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _build(cls: type, values: Mapping[str, Any]):
    """A dataclass from JSON values, which have no tuples. Raises TypeError for unknown fields."""
    hints = get_type_hints(cls)
    return cls(
        **{
            name: tuple(value) if get_origin(hints.get(name)) is tuple else value
            for name, value in values.items()
        }
    )
