"""Spellings of the same label: which of them differ only in case, space, Unicode form or a single mistyped letter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from rapidfuzz.distance import OSA

MIN_MISTYPED_CHARACTERS = 5
"""Characters; among shorter labels one letter makes another word: "cat" and "car", "Iran" and "Iraq"."""
MISTYPED_RATIO = 5
"""A label is mistyped only if the right spelling has at least this many times its rows."""

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_DASHES_AND_QUOTES = str.maketrans({**dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"), "’": "'", "‘": "'"})
_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])[-_\s]+(?=[^\W\d_])")
_LETTERS = re.compile(r"[^\W\d_]+")


def find_spellings(rows_per_label: Mapping[str, int]) -> dict[str, str]:
    """Return {spelling: the most frequent spelling of the same label} of every label that is spelled in several ways.

    rows_per_label: number of rows of each label as it is written; of a tie, the spelling that comes first is kept.
    """
    forms: dict[str, list[str]] = {}
    for label in rows_per_label:
        forms.setdefault(normalize_label(label), []).append(label)
    rows = {form: sum(rows_per_label[label] for label in labels) for form, labels in forms.items()}
    for mistyped, right in _find_mistyped(rows).items():
        forms[right] += forms.pop(mistyped)
    found = {}
    for labels in forms.values():
        kept = max(labels, key=lambda label: rows_per_label[label])
        found.update({label: kept for label in labels if label != kept})
    return found


def normalize_label(label: str) -> str:
    """Return a form that is equal for labels that differ only in case, space, Unicode form or a final period."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", label)).translate(_DASHES_AND_QUOTES).casefold()
    text = " ".join(text.split())
    return _BETWEEN_LETTERS.sub(" ", text.rstrip(".,;") or text).strip()


def _find_mistyped(rows: Mapping[str, int]) -> dict[str, str]:
    """Return {rare form: the frequent form that it is one letter away from}, the most frequent one if there are two."""
    frequent_first = sorted(rows, key=lambda form: -rows[form])
    found: dict[str, str] = {}
    for form in reversed(frequent_first):
        right = next((other for other in frequent_first if _is_mistyped(form, other, rows)), None)
        if right is not None and right not in found:
            found[form] = right
    return {form: right for form, right in found.items() if right not in found}


def _is_mistyped(form: str, other: str, rows: Mapping[str, int]) -> bool:
    if min(len(form), len(other)) < MIN_MISTYPED_CHARACTERS or rows[other] < MISTYPED_RATIO * rows[form]:
        return False
    # a first letter is rarely mistyped and often makes the opposite (typical, atypical); digits number the labels
    same = form != other and form[0] == other[0] and _LETTERS.sub("", form) == _LETTERS.sub("", other)
    return same and OSA.distance(form, other, score_cutoff=1) == 1
