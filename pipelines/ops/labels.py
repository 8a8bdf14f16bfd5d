"""Action labels as plain text: nothing invisible, no brackets, never empty."""

from __future__ import annotations

import re

from schemas import DataError

_SURROGATES = re.compile("[\ud800-\udfff]")
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]")
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_BRACKETS = re.compile(r"[\[\]]")
# a placeholder, which may hold one more level of brackets; deeper ones lose just their brackets
_HOLE = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]")


def clean_text(text: str) -> str:
    """The text on one line, otherwise as written.

    Runs of white space and control characters become one space, both ends are stripped, zero-width
    marks go, and lone surrogates, which JSON and tar names can carry but UTF-8 cannot, become
    U+FFFD.
    """
    text = _SURROGATES.sub("\ufffd", _INVISIBLE.sub("", text))
    return _SPACE.sub(" ", text).strip()


def ssv2_text(label: object, template: object, placeholders: object) -> str:
    """A Something-Something V2 label with all of its placeholders filled in.

    The dataset writes labels filled in already ("pushing a cup from left to right"), and then they
    are returned as written. What still has brackets is filled with the placeholders in order; a
    placeholder that is missing leaves its own words ("[part]" -> "part"), surplus ones are unused.

    Args:
        label, template, placeholders: as the annotation file has them: two strings and a list of
            strings; values of another type count as absent.

    Returns:
        Text without brackets, never empty.

    Raises:
        DataError: if neither label nor template holds a word.
    """
    label, template = (clean_text(x) if isinstance(x, str) else "" for x in (label, template))
    listed = placeholders if isinstance(placeholders, list) else []
    words = [_plain(x) if isinstance(x, str) else "" for x in listed]
    if _plain(label) and not _BRACKETS.search(label):
        return label
    texts = [text for text in (label, template) if _HOLE.search(text) or _plain(text)]
    if not texts:
        raise DataError("neither label nor template holds a word", stage="annotate")
    fitting = [text for text in texts if len(_HOLE.findall(text)) == len(words)]
    return _fill((fitting or texts)[0], words)


def ssv2_class(template: str) -> str:
    """The class of a Something-Something V2 clip: its template without the brackets.

    Raises:
        DataError: if the template holds no word.
    """
    name = _plain(template)
    if not name:
        raise DataError(f"the template {template!r} holds no word", stage="annotate")
    return name


def _plain(text: str) -> str:
    return clean_text(_BRACKETS.sub("", text))


def _fill(text: str, words: list[str]) -> str:
    remaining = iter(words)

    def word(hole: re.Match[str]) -> str:
        return next(remaining, "") or _plain(hole[1]) or "something"

    return _plain(_HOLE.sub(word, text))
