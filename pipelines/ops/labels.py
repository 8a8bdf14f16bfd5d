"""Action labels as plain text: no tags, no placeholders, nothing invisible, never empty. Pure."""

from __future__ import annotations

import re

from schemas import DataError

_SURROGATES = re.compile("[\ud800-\udfff]")
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]")
_SPACE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
_BRACKETS = re.compile(r"[\[\]]")
_WORD = re.compile(r"[^\W_]")
# words may be glued to a tag: "#unsurefrom", "#CCtalks", "#OOpoints"
_UNSURE = re.compile(r"(?:\b(?:an?|the)\s+)?#\s*(?:unss?ured?|unknown)", re.IGNORECASE)
_OTHERS = re.compile(r"#\s*C(?=\s+(?:an?|the|another)\b)", re.IGNORECASE)
_WEARER = re.compile(r"#\s*C(?:\s+C\b|C(?=\b|(?-i:[a-z]{2}))|\b)(?!\s*:)", re.IGNORECASE)
# no article stands before the wearer, but before "C clamp"
_C = re.compile(r"(?<!\b[aA] )(?<!\b[tT]he )\bC\b(?:\s+C\b)*(?!-)")
_SOMEONE = re.compile(r"#\s*(?:OO(?=\b|[a-z])|oo\b)")
_OTHER = re.compile(r"#\s*O(?:#|\b)", re.IGNORECASE)
_TAG = re.compile(r"#\s*\w+")
_TIME = re.compile(r"[0-9]+(?::[0-9]+)+[.,;!?]?")
_SPACE_BEFORE = re.compile(r"\s+([.,;!?]|'s\b)")
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
    words = [_named(x) if isinstance(x, str) else "" for x in listed]
    if _named(label) and not _BRACKETS.search(label):
        return label
    texts = [text for text in (label, template) if _HOLE.search(text) or _named(text)]
    if not texts:
        raise DataError("neither label nor template holds a word", stage="annotate")
    fitting = [text for text in texts if len(_HOLE.findall(text)) == len(words)]
    return _fill((fitting or texts)[0], words)


def epic_text(narration: object, verb: object, noun: object) -> str:
    """An EPIC-KITCHENS narration as plain words.

    The dataset joins words with hyphens in verbs ("turn-on") and writes nouns with their head first
    ("bowl:washing:up" -> "washing up bowl"). A narration without words falls back on verb + noun.

    Args:
        narration, verb, noun: as the CSV has them; values of another type count as absent.

    Raises:
        DataError: if none of them holds a word.
    """
    narration, verb, noun = (
        clean_text(x) if isinstance(x, str) else "" for x in (narration, verb, noun)
    )
    if verb and "-" in verb and narration.startswith(verb):
        narration = verb.replace("-", " ") + narration.removeprefix(verb)
    for text in (narration, f"{verb.replace('-', ' ')} {noun}"):
        words = _plain(" ".join(_epic_word(word) for word in text.split()))
        if _WORD.search(words):
            return words
    raise DataError("neither narration nor verb and noun hold a word", stage="annotate")


def _epic_word(word: str) -> str:
    if _TIME.fullmatch(word):
        return word
    head, *kind = word.split(":")
    return " ".join(filter(None, [*kind, head])).replace("_", " ")


def ego4d_text(narration: object) -> str:
    """An Ego4D narration without its tags: "#C C picks a #unsure" -> "the camera wearer picks
    something".

    `#C C`, and C alone, is the camera wearer, but "#C A car drives past C" is about the car; `#O`
    stands before other people, `#OO` for one of them, `#unsure`, with its article, for what the
    annotator could not name; any other tag (`#summary`) is left out. Other people keep the letters
    by which narrations tell them apart ("man X").

    Raises:
        DataError: if no word remains.
    """
    text = clean_text(narration) if isinstance(narration, str) else ""
    text = _UNSURE.sub(" something ", _OTHERS.sub(" ", text))
    text = _WEARER.sub(" C ", text)
    text = _OTHER.sub(" ", _SOMEONE.sub(" another person ", text))
    text = _TAG.sub(" ", text).replace("#", " ")
    text = _C.sub("the camera wearer", _plain(text))
    text = _SPACE_BEFORE.sub(r"\1", text)
    if not _WORD.search(text):
        raise DataError(f"the narration {narration!r:.80} holds no words", stage="annotate")
    return text


def goal_text(category: object, *, instance: bool = False) -> str:
    """A navigation goal in words: "tv_monitor" -> "navigate to a tv monitor".

    Args:
        category: the object category of the goal.
        instance: whether one certain object is meant, as in InstanceImageNav: "the", not "a".

    Raises:
        DataError: if the category holds no word.
    """
    name = category.replace("_", " ") if isinstance(category, str) else ""
    name = _plain(name.replace("#", " "))
    if not _WORD.search(name):
        raise DataError(f"the goal category {category!r:.80} holds no word", stage="annotate")
    article = "an" if name[0].lower() in "aeiou" else "a"
    return f"navigate to {'the' if instance else article} {name}"


def _plain(text: str) -> str:
    return clean_text(_BRACKETS.sub("", text))


def _named(text: str) -> str:
    """Plain text, "" if there is no word in it."""
    return text if _WORD.search(text := _plain(text)) else ""


def _fill(text: str, words: list[str]) -> str:
    remaining = iter(words)

    def word(hole: re.Match[str]) -> str:
        return next(remaining, "") or _named(hole[1]) or "something"

    return _plain(_HOLE.sub(word, text))
