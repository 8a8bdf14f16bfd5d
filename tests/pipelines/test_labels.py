"""Laws of label texts: nothing invisible, no tags or placeholders, never empty; what people wrote
stays as it is."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ops.labels import clean_text, ego4d_text, epic_text, goal_text, ssv2_text
from schemas import DataError, text_key
from tests.samples import sample

ZERO_WIDTH = "\u200b\u2060\ufeff"
any_text = st.text(st.characters(exclude_categories=()), max_size=40)  # surrogates, controls …
written = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zs", "Zl", "Zp"), exclude_characters=ZERO_WIDTH),
    min_size=1,
)
PIECES = [
    *["#C", "#c c", "#O", "#OO", "#unsure", "#Unsure", "# C", "#summary", "a #unsure", "#", "C"],
    *["[", "]", "[something]", "[a [big] thing]", "[]", ":", "bag:garbage", "10:30", "_", "tv_set"],
    *["turn-on", "-", "a", "the", "cup", "kopje", "кружка", "杯子", "👩‍🚀", "é", ".", "'s", "²"],
    *[" ", "\n", "\x00", "\x85", "\u2028", "\u200b", "\ud800", "\ufeff"],
]
tangled = st.lists(st.sampled_from(PIECES) | any_text, max_size=12).map("".join)
anything = st.none() | st.integers() | tangled


def has_word(*texts: object) -> bool:
    return any(c.isalnum() for text in texts if isinstance(text, str) for c in text)


def check_plain(text: str) -> None:
    """What every rendered label is."""
    assert has_word(text)
    assert text == text.strip() and "  " not in text
    assert not set(text) & {"[", "]", *ZERO_WIDTH}
    assert not {unicodedata.category(c) for c in text} & {"Cc", "Cs", "Zl", "Zp"}
    assert len(text_key(text)) == 16  # encodes to UTF-8


@given(any_text | tangled)
def test_clean_text_is_one_line_of_utf8_and_cleaning_it_again_changes_nothing(text):
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert len(text_key(cleaned)) == 16  # encodes to UTF-8
    assert cleaned == cleaned.strip() and "  " not in cleaned
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in cleaned)


@given(any_text | tangled)
def test_clean_text_changes_nothing_else(text):
    kept = ""
    for c in text:
        category = unicodedata.category(c)
        if c not in ZERO_WIDTH:
            kept += " " if category == "Cc" or c.isspace() else "\ufffd" if category == "Cs" else c
    assert clean_text(text) == " ".join(kept.split())


@given(st.lists(written, min_size=1))
def test_what_a_person_wrote_stays_as_written(words):
    assert clean_text(" ".join(words)) == " ".join(words)
    assert clean_text("\x00 " + " \t\n".join(words) + "\u2028") == " ".join(words)


@pytest.mark.parametrize(
    "text",
    [
        "Ünïcödé 👩‍🚀 — as “written”",
        "push the [red] block: left of #2, C C",
        "می‌خواهم",  # with its zero-width non-joiner
        "👨‍👩‍👧‍👦 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️ 1️⃣",
        "杯子を取る、кружка, कप",
        "e\u0301",  # not composed
    ],
)
def test_scripts_tags_and_emoji_stay_as_written(text):
    assert clean_text(text) == text


def test_clean_text_by_example():
    assert clean_text(" a\u00a0cat \x00\r\n\u2028on\ta\u200b mat\ufeff ") == "a cat on a mat"
    assert clean_text("\ud800x") == "\ufffdx"


@given(anything, anything, st.none() | st.text() | st.lists(anything, max_size=5))
def test_ssv2_text_is_plain_or_there_is_nothing_to_say(label, template, placeholders):
    try:
        check_plain(ssv2_text(label, template, placeholders))
    except DataError as e:
        assert e.stage == "annotate" and not has_word(label, template)


@given(anything, anything, anything)
def test_epic_text_is_plain_or_there_is_nothing_to_say(narration, verb, noun):
    try:
        text = epic_text(narration, verb, noun)
    except DataError as e:
        assert e.stage == "annotate" and not has_word(narration, verb, noun)
        return
    check_plain(text)
    assert "_" not in text
    # only a time of day keeps its colon
    assert ":" not in re.sub(r"\d(:\d+)+", "", text)


@given(anything)
def test_ego4d_text_is_plain_or_there_is_nothing_to_say(narration):
    try:
        text = ego4d_text(narration)
    except DataError as e:
        assert e.stage == "annotate" and len(e.reason) < 200
        assert not has_word(narration) or "#" in str(narration)
        return
    check_plain(text)
    assert "#" not in text


@given(anything, st.booleans())
def test_goal_text_is_plain_or_there_is_nothing_to_say(category, instance):
    try:
        text = goal_text(category, instance=instance)
    except DataError as e:
        assert e.stage == "annotate" and not has_word(category)
        return
    check_plain(text)
    assert "_" not in text and "#" not in text
    assert re.match("navigate to the " if instance else "navigate to an? ", text)


@pytest.mark.parametrize(
    "narration, wanted",
    [
        ("#C C picks a #unsure from the table.", "{} picks something from the table."),
        ("#C C puts the #Unsure down", "{} puts something down"),
        ("#C A #unsure falls", "something falls"),
        ("#C C holds a blue #unsure", "{} holds a blue something"),
        ("#C C tightens the C-clamp", "{} tightens the C-clamp"),
        ("#C C takes a C clamp from C's bag", "{} takes a C clamp from {}'s bag"),
        ("#O man X talks to C .", "man X talks to {}."),
        ("#Summary C cooked", "{} cooked"),
    ],
)
def test_ego4d_text_by_example(narration, wanted):
    assert ego4d_text(narration) == wanted.replace("{}", "the camera wearer")


@pytest.mark.parametrize(
    "category, instance, wanted",
    [
        ("tv_monitor", False, "navigate to a tv monitor"),
        ("armchair", False, "navigate to an armchair"),
        ("chair", True, "navigate to the chair"),
    ],
)
def test_goal_text_by_example(category, instance, wanted):
    assert goal_text(category, instance=instance) == wanted


def templates(name: str) -> st.SearchStrategy[str]:
    """Templates of a class: some of the words that stand for something are in brackets."""
    parts = re.split(r"\b(something|somewhere|part|number of)\b", name, flags=re.IGNORECASE)
    ways = [st.sampled_from([x, f"[{x}]"] if i % 2 else [x]) for i, x in enumerate(parts)]
    return st.tuples(*ways).map("".join)


@given(st.data())
def test_every_real_template_renders(data):
    name = data.draw(st.sampled_from(sample("ssv2/label_map_174.txt").read_text().splitlines()))
    template = data.draw(templates(name))
    label = data.draw(st.sampled_from(["", template, template.lower(), "[]"]))
    check_plain(ssv2_text(label, template, data.draw(st.lists(anything, max_size=4))))
    # without placeholders it is its class
    assert ssv2_text("", template, []) == name
    # with all of them they stand in its holes, in order
    parts = re.split(r"[\[\]]", template)
    words = data.draw(st.lists(written.filter(has_word), min_size=4, max_size=4))
    words = [re.sub(r"[\[\]]", "", word) for word in words][: len(parts) // 2]
    filled = [words[i // 2] if i % 2 else part for i, part in enumerate(parts)]
    assert ssv2_text(template, template, words) == clean_text("".join(filled))


PUT = "Putting [number of] [something] onto [something]"
TAKE = "Taking [one of many similar things on the table]"


@pytest.mark.parametrize(
    "label, template, placeholders, wanted",
    [
        # the label as the dataset writes it, filled in: as written
        ("holding a potato", "Holding [something]", ["a tuber"], "holding a potato"),
        # brackets left in the label
        (PUT, PUT, ["three", "pens", "a book"], "Putting three pens onto a book"),
        (TAKE, TAKE, ["a pencil"], "Taking a pencil"),
        ("[Something] falling", "[Something] falling", ["leaf"], "leaf falling"),
        ("moving [part] of it", "Moving [part] of [something]", ["a", "b"], "Moving a of b"),
        # missing and surplus placeholders
        (TAKE, TAKE, [], "Taking one of many similar things on the table"),
        (PUT, PUT, ["three"], "Putting three something onto something"),
        ("[Something] falling", "", ["leaf", "rock"], "leaf falling"),
        ("", "Taking [something] from [somewhere]", ["a cup"], "Taking a cup from somewhere"),
        ("", TAKE, None, "Taking one of many similar things on the table"),
        # nested, empty, unbalanced, of another type
        ("Moving [a [big] thing]", "", ["box"], "Moving box"),
        ("Moving [] up", "", [], "Moving something up"),
        ("Moving [something", "", ["box"], "Moving something"),
        ("Moving [something]", "", ["[something]"], "Moving something"),
        ("Moving [something]", 7, [None], "Moving something"),
    ],
)  # fmt: skip
def test_ssv2_text_by_example(label, template, placeholders, wanted):
    assert ssv2_text(label, template, placeholders) == wanted


def test_no_words_at_all_is_bad_data():
    for label, template in [("", ""), (None, None), (" \n", "]["), ([], {})]:
        with pytest.raises(DataError, match="word"):
            ssv2_text(label, template, ["cup"])
