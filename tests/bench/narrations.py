"""What the text bench embeds: made-up narrations, a stream of them, and a T5 of random weights."""

from __future__ import annotations

import dataclasses

import numpy as np

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
