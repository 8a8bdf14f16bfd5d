"""Laws of label texts: nothing invisible, no brackets, never empty."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ops.labels import clean_text, ssv2_class, ssv2_text
from schemas import DataError, text_key
from tests.samples import sample

any_text = st.text(st.characters(), max_size=40)  # surrogates and control characters included
bracketed = st.text("[]ab {}\n", max_size=30)


@given(any_text)
def test_clean_text_is_one_line_of_utf8_and_cleaning_it_again_changes_nothing(text):
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert len(text_key(cleaned)) == 16  # encodes to UTF-8
    assert cleaned == cleaned.strip() and "  " not in cleaned
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in cleaned)


@given(st.lists(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1), min_size=1))
def test_clean_text_keeps_every_visible_character(words):
    words = [word for word in words if clean_text(word)]
    assert clean_text(" \t\n".join(words)) == " ".join(words)


def test_clean_text_by_example():
    assert clean_text(" a\u00a0cat \x00\r\n\u2028on\ta\u200b mat\ufeff ") == "a cat on a mat"
    assert clean_text("Ünïcödé 👩‍🚀 — as “written”") == "Ünïcödé 👩‍🚀 — as “written”"
    assert clean_text("\ud800x") == "\ufffdx"


@given(
    st.none() | any_text | bracketed,
    st.none() | any_text | bracketed,
    st.none() | st.lists(st.none() | bracketed | any_text, max_size=5),
)
def test_ssv2_text_has_no_bracket_and_is_never_empty(label, template, placeholders):
    try:
        text = ssv2_text(label, template, placeholders)
    except DataError as e:
        # only where there is nothing to say
        assert e.stage == "annotate"
        assert not any(c.isalnum() for c in f"{label or ''}{template or ''}")
        return
    assert text == clean_text(text) != ""
    assert "[" not in text and "]" not in text


@given(bracketed)
def test_ssv2_class_has_no_bracket_and_is_never_empty(template):
    try:
        name = ssv2_class(template)
    except DataError:
        assert not clean_text(template.replace("[", "").replace("]", ""))
        return
    assert name == clean_text(name) != ""
    assert "[" not in name and "]" not in name


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


@pytest.mark.parametrize(
    "template",
    [
        PUT,
        TAKE,
        "Touching (without moving) [part] of [something]",
        "Pretending to take [something] from [somewhere]",
        "[Something] falling like [a feather or paper]",
        "Putting [something], [something] and [something] on the table",
        "Trying to bend [something unbendable] so nothing happens",
    ],
)
def test_the_class_of_a_template_is_one_of_the_174(template):
    classes = sample("ssv2/label_map_174.txt").read_text().splitlines()
    assert ssv2_class(template) in classes


def test_no_words_at_all_is_bad_data():
    for label, template in [("", ""), (None, None), (" \n", "]["), ([], {})]:
        with pytest.raises(DataError, match="word"):
            ssv2_text(label, template, ["cup"])
