"""The family "content", of the action texts: a text tells a person, and a model, what to do."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping

from pipelines.audit.check import Where, check
from pipelines.audit.limits import Limits
from pipelines.audit.record import Record

# what annotations leave behind: markup, entities, Ego4D's "#C" and "#unsure", SSV2's "[something]"
_TAGGED = re.compile(r"</?[a-zA-Z][^>]*>|&(?:[a-z]{2,8}|#\d{1,6});|#[A-Za-z]+\b|\[[^\]]*\]|\{\w*\}")
_KEPT = 20  # records that a script is remembered by


@check("text-long", "content", "warning")
def too_long(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """An action text is a sentence or two."""
    characters = len(record.row["text"])
    if characters > limits.text["characters"]:
        yield record.row, f"a text of {characters} characters, {record.row['text'][:40]!r} …"


@check("text-tagged", "content", "warning")
def tagged(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """No markup, entity, tag or placeholder of an annotation is left in a text."""
    if found := _tag(record.row["text"]):
        yield record.row, f"the text has {found!r} in it"


@check("text-control-characters", "content", "warning")
def control_characters(record: Record, limits: Limits) -> Iterator[tuple[Where, str]]:
    """A text has no characters that steer a terminal, or that nobody sees."""
    if found := _hidden(record.row["text"]):
        yield record.row, f"the text has the characters {' '.join(found)}"


@functools.lru_cache(1 << 14)
def _tag(text: str) -> str:
    match = _TAGGED.search(text)
    return match[0][:40] if match else ""


@functools.lru_cache(1 << 14)
def _hidden(text: str) -> tuple[str, ...]:
    found = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Cs")}
    return tuple(sorted(f"U+{ord(c):04X}" for c in found))


@functools.lru_cache(1 << 14)
def script(text: str) -> str:
    """The script of most of a text's letters, "LATIN"; empty if it has none."""
    names = [unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha()]
    return Counter(names).most_common(1)[0][0] if names else ""


class Scripts:
    """Which scripts a dataset's texts are in, and some records of each.

    Attributes:
        counts: script -> records.
        some: script -> the first records in it, as index rows of three columns.
    """

    def __init__(self, counts: Mapping[str, int] | None = None, some: Mapping | None = None):
        self.counts: Counter[str] = Counter(counts or {})
        self.some: dict[str, list[dict]] = {k: list(v) for k, v in (some or {}).items()}

    def add(self, row: Mapping) -> None:
        """One record."""
        name = script(row["text"])
        if not name:
            return
        self.counts[name] += 1
        kept = self.some.setdefault(name, [])
        if len(kept) < _KEPT:
            kept.append({key: row[key] for key in ("dataset", "episode_id", "step", "text")})

    def merge(self, other: Scripts) -> None:
        """Those of another shard."""
        self.counts += other.counts
        for name, rows in other.some.items():
            kept = self.some.setdefault(name, [])
            kept.extend(rows[: _KEPT - len(kept)])


@check("text-script", "content", "warning")
def odd_scripts(scripts: Scripts, limits: Limits) -> Iterator[tuple[Where, str]]:
    """A dataset's texts are in one script, where nearly all of them are."""
    if not scripts.counts:
        return
    usual, most = scripts.counts.most_common(1)[0]
    total = scripts.counts.total()
    if most < limits.text["script"] * total:
        return
    for name in sorted(scripts.counts.keys() - {usual}):
        for row in scripts.some[name]:
            text = row["text"][:40]
            yield row, f"{text!r} is in {name}, {most} of {total} texts are in {usual}"
        if (rest := scripts.counts[name] - len(scripts.some[name])) > 0:
            yield scripts.some[name][0]["dataset"], f"{rest} more records have a text in {name}"


@check("text-constant", "content", "warning")
def constant(
    dataset: str, texts: set[bytes], episodes: int, limits: Limits
) -> Iterator[tuple[Where, str]]:
    """The texts of a dataset of many episodes are not all the same."""
    if len(texts) == 1 and episodes >= limits.text["episodes"]:
        yield dataset, f"its {episodes} episodes all have the same text"


RECORD = (too_long, tagged, control_characters)
