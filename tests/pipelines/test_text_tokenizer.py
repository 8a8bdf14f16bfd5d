"""The tokenizer: T5's own vocabulary, texts of every kind."""

import random

import numpy as np
import pytest

from pipelines.text.tokenizer import Tokenizer
from schemas import UsageError
from tests.samples import sample


@pytest.fixture(scope="module")
def spiece() -> bytes:
    return sample("t5/vocabulary/spiece.model").read_bytes()


@pytest.fixture(scope="module")
def tokenizer(spiece) -> Tokenizer:
    return Tokenizer(spiece)


# what the SentencePiece library gives for T5's vocabulary, and the end piece
REFERENCE = {
    "": [1],
    " ": [1],
    "\n\t": [1],
    "\0": [3, 2, 1],
    "a\0b": [3, 9, 2, 115, 1],
    "🤖🦾": [3, 2, 1],
    "👩‍🔧 opens a drawer": [3, 2, 3, 2, 9540, 3, 9, 10326, 1],
    "Ünïcödé": [3, 14858, 29, 2, 75, 1872, 3764, 1],
    "e\u0301 vs \u00e9": [3, 154, 3, 208, 7, 3, 154, 1],
    "ﬁne ½ ①": [1399, 209, 2, 357, 209, 1],
    "أغلق الدرج": [3, 2, 3, 2, 1],
    "열린 서랍을 닫아": [3, 2, 3, 2, 3, 2, 1],
    "\u202e": [3, 2, 1],
    "\ufeffstart": [456, 1],
    "a\u200bb": [3, 9, 3, 115, 1],
    "pick up\u00a0the\u3000cup": [1432, 95, 8, 4119, 1],
    "  two   spaces  ": [192, 4856, 1],
    "move 0.12 m, yaw +5°": [888, 4097, 2122, 3, 51, 6, 3, 63, 9, 210, 1768, 755, 1956, 1],
    # T5's control pieces cannot be written in a text
    "</s>": [3, 2, 87, 7, 3155, 1],
    "<pad>": [3, 2, 5612, 3155, 1],
    "<extra_id_0>": [3, 2, 25666, 834, 23, 26, 834, 632, 3155, 1],
}


def test_any_text_has_the_reference_s_tokens(tokenizer):
    ids, lengths, truncated = tokenizer.encode(list(REFERENCE))
    assert ids.dtype == np.int32 and lengths.dtype == np.int32 and not truncated.any()
    found = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
    assert dict(zip(REFERENCE, found, strict=True)) == REFERENCE
    assert not ids[np.arange(64) >= lengths[:, None]].any()
    assert tokenizer.encode([]).ids.shape == (0, 64)


def test_long_texts_keep_their_beginning_and_the_end_piece(spiece, tokenizer):
    long = "pick up the blue block and " * 40_000
    ids, lengths, truncated = tokenizer.encode([long, "pick up", "a " * 63, "a " * 31 + "a"])
    whole = Tokenizer(spiece, max_tokens=100)
    np.testing.assert_array_equal(ids[0, :63], whole.encode([long]).ids[0, :63])
    assert lengths[0] == 64 and ids[0, 63] == 1 and 1 not in ids[0, :63]
    assert ids[1, :4].tolist() == [1432, 95, 1, 0]
    # exactly as many pieces as there is room for is no truncation
    exact = next(n for n in range(64) if whole.encode(["up " * n]).lengths[0] == 64)
    assert not tokenizer.encode(["up " * exact]).truncated[0]
    assert tokenizer.encode(["up " * (exact + 1)]).truncated[0]
    assert truncated[0] and not truncated[1]


ALPHABETS = [
    "ab ",
    "the cup and ",
    "\u200b\u0301 ",  # what the normaliser deletes or joins
    "\0\x01\x7f\u202e",  # control characters
    "🤖열린x ",
    "  \n\t\u3000",
    "-.°½",
]


@pytest.mark.parametrize("alphabet", ALPHABETS, ids=ascii)
def test_a_long_text_is_shortened_without_a_change_to_its_tokens(alphabet, tokenizer, spiece):
    """Against the op over the whole text, of 9,000 characters: more would take it minutes."""
    draw = random.Random(alphabet)
    texts = ["".join(draw.choices(alphabet, k=9_000)) for _ in range(2)]
    texts += [texts[0][:4_500] + "🤖" * 4_000 + " then stop", "🤖" * 4_200 + texts[1][:4_500]]
    flat, starts, counts = tokenizer._pieces(texts)
    ids, lengths, truncated = tokenizer.encode(texts)
    for row, start, count in zip(range(4), starts, counts, strict=True):
        kept = min(count, 63)
        assert ids[row, :kept].tolist() == flat[start : start + kept].tolist()
        assert (lengths[row], truncated[row]) == (kept + 1, count > 63)


@pytest.mark.parametrize(
    "text",
    ["\0" * 1_000_000, "🤖" * 1_000_000, "x" * 1_000_000, "ab \x07" * 250_000, " " * 1_000_000],
    ids=["NUL", "emoji", "one word", "control", "spaces"],
)
def test_a_poisoned_text_is_cut_and_counted(text, tokenizer):
    ids, lengths, truncated = tokenizer.encode(["push", text])
    assert lengths[0] == 2 and ids[1, lengths[1] - 1] == 1
    assert truncated[1] == (lengths[1] == 64)


def test_half_of_a_surrogate_pair_is_named(tokenizer):
    with pytest.raises(UsageError, match=r"'push \\ud83e' is not Unicode: character 5"):
        tokenizer.encode(["fine", "push \ud83e"])
