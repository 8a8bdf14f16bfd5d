"""What the text bench embeds: made-up narrations, a stream of them, and a T5 of random weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import safetensors.numpy

from pipelines.text.config import RELATIVE_BIAS, T5Config
from pipelines.text.directory import CONFIG, VOCABULARY
from pipelines.text.weights import WEIGHTS
from tests.samples import ROOT as SAMPLES

SPIECE = SAMPLES / "t5/vocabulary/spiece.model"

_WHO = [
    "",
    "",
    "",
    "a person ",
    "the robot arm ",
    "someone ",
    "#C C ",
    "the man in the blue shirt ",
]
_DOES = [
    "pick up", "put down", "open", "close", "push", "pull", "turn", "wipe", "cut", "wash", "hold",
    "drop", "lift", "move", "rotate", "fold", "look at", "walk towards", "pour water into",
    "take something out of",
]  # fmt: skip
_HOW = ["", "", "", "slowly ", "with the left hand ", "with both hands ", "again "]
_WHAT = [
    "cup", "green bowl", "drawer", "fridge door", "wooden spoon", "red block", "sponge", "plate",
    "screwdriver", "chopping board", "bag of rice", "lid", "microwave", "phone", "carrot", "bottle",
    "towel", "pan", "box", "yellow pentagon",
]  # fmt: skip
_WHERE = ["", "", "on the table", "next to the sink", "from the top shelf", "in the corner",
          "near the edge of the kitchen counter", "to the right of the other one"]  # fmt: skip
_CLAUSES = (0.80, 0.14, 0.03, 0.02, 0.01)  # how often a text has one clause, two, ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    distinct: int = 20_000
    stream: int = 1_000_000
    sample: int = 1_000
    rows: int = 1_000_000
    keys: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)

    def share(self, part: float) -> Sizes:
        """The same, smaller: to try the bench out."""
        small = {
            name: max(int(part * value), 64)
            for name, value in dataclasses.asdict(self).items()
            if name != "keys"
        }
        return Sizes(**small, keys=tuple(max(int(part * n), 64) for n in self.keys))


def distinct_texts(count: int) -> list[str]:
    """Different narrations: 4 to 20 tokens mostly, with a tail to 60 and beyond."""
    rng = np.random.default_rng(20)
    found: dict[str, None] = {}
    while len(found) < count:
        clauses = int(rng.choice(len(_CLAUSES), p=_CLAUSES)) + 1
        text = " and then ".join(_clause(rng) for _ in range(clauses))
        found[str(rng.choice(_WHO)) + text] = None
    return list(found)


def _clause(rng: np.random.Generator) -> str:
    does, how, what, where = (str(rng.choice(words)) for words in (_DOES, _HOW, _WHAT, _WHERE))
    number = f" {rng.integers(2, 100)} cm" if rng.random() < 0.2 else ""
    return f"{how}{does} the {what} {where}".rstrip() + number


def stream_of(distinct: int, occurrences: int) -> np.ndarray:
    """Places in the distinct texts, int64 `[occurrences]`: each once, and all others by Zipf's law,
    the n-th text 1/n times as often as the first."""
    rng = np.random.default_rng(21)
    often = 1 / np.arange(1, distinct + 1)
    others = rng.choice(distinct, occurrences - distinct, p=often / often.sum())
    return rng.permutation(np.concatenate([np.arange(distinct), others]))


def write_small(folder: Path) -> None:
    """A T5 of the size of t5-v1_1-small with T5's vocabulary; random weights at the deviations of
    T5's initialisation, so that values are of the usual size throughout."""
    folder.mkdir()
    shutil.copyfile(SPIECE, folder / VOCABULARY)
    settings = json.dumps(_SMALL)
    (folder / CONFIG).write_text(settings)
    rng = np.random.default_rng(22)
    config = T5Config.from_json(settings)
    tensors = {name: _tensor(rng, name, shape, config) for name, shape in config.tensors().items()}
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(tensors))


def _tensor(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], config: T5Config
) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    deviation = shape[1] ** -0.5
    if name == "shared.weight":
        deviation = 1.0
    elif name == RELATIVE_BIAS:
        deviation = config.d_model**-0.5
    elif name.endswith("SelfAttention.q.weight"):
        deviation = (config.d_model * config.d_kv) ** -0.5
    return rng.standard_normal(shape, np.float32) * np.float32(deviation)


_SMALL = {
    "architectures": ["T5EncoderModel"],
    "d_ff": 1024,
    "d_kv": 64,
    "d_model": 512,
    "dense_act_fn": "gelu_new",
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-6,
    "model_type": "t5",
    "num_heads": 6,
    "num_layers": 8,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}
