"""One answer against the expected one: every measure of a row, as numbers. NaN where a measure does not apply.

An answer that could not be had counts as an empty one: wrong, never left out. Knows no model and no statistics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rapidfuzz.distance import LCSseq
from sacrebleu.metrics.chrf import CHRF

from toolkit.evaluation.statistics.measures import MAX_ANSWER_LABELS
from toolkit.evaluation.statistics.text import (
    InvalidJsonError,
    iterate_json_fields,
    normalize_words,
    parse_answer_json,
    same_json,
    split_words,
)

OTHER_LABEL = "(something else)"
MAX_SCORED_FIELDS = 40
_CHRF = CHRF()


@dataclass(frozen=True)
class AnswerKind:
    """What the expected answers are. labels: their normal forms, when they are few; json: whether they are objects."""

    labels: tuple[str, ...] = ()
    json: bool = False
    field_names: tuple[str, ...] = field(default=())


def detect_answer_kind(expected: Sequence[str | None]) -> AnswerKind:
    """JSON when every expected answer is an object; labels when at most MOST_LABELS occur, each twice on average."""
    known = [text for text in expected if text is not None]
    if not known:
        return AnswerKind()
    objects = [_parse_object(text) for text in known]
    if all(value is not None for value in objects):
        named = Counter(name for value in objects for name, _ in iterate_json_fields(value))
        return AnswerKind(json=True, field_names=tuple(name for name, _ in named.most_common(MAX_SCORED_FIELDS)))
    forms = Counter(normalize_words(text) for text in known)
    few = 2 <= len(forms) <= MAX_ANSWER_LABELS and len(known) >= 2 * len(forms)
    return AnswerKind(labels=tuple(sorted(forms)) if few else ())


def score_answer(answer: str, expected: str | None, kind: AnswerKind) -> dict[str, float]:
    """Every measure of `measures.MEASURES` but the loss. Without an expected answer there is nothing to measure."""
    if expected is None:
        return {}
    said, meant = split_words(answer), split_words(expected)
    shared = sum((Counter(said) & Counter(meant)).values())
    found = {
        "exact_match": float(answer.strip() == expected.strip()),
        "same_words": float(normalize_words(answer) == normalize_words(expected)),
        "rouge_l": _f1(LCSseq.similarity(said, meant), len(said), len(meant)),
        "chrf": _CHRF.sentence_score(answer, [expected]).score / 100,
        "length_difference": float(abs(len(answer) - len(expected))),
        "length_ratio": len(answer) / len(expected) if expected else math.nan,
        **_overlap(said, meant, shared),
    }
    if not meant:  # a sign or an emoji: it is there or it is not
        for name in ("rouge_l", "token_f1", "rouge_1", "word_overlap", "jaccard", "cosine"):
            found[name] = found["exact_match"]
    if kind.labels:
        found["label_accuracy"] = found["same_words"]
    if kind.json:
        found.update(_json_scores(answer, expected))
    return found


def match_answer_label(answer: str, kind: AnswerKind) -> str:
    """The label that an answer names, or OTHER."""
    form = normalize_words(answer)
    return form if form in kind.labels else OTHER_LABEL


def score_json_fields(answer: str, expected: str | None, kind: AnswerKind) -> dict[str, float]:
    """1 or 0 for each field of the expected JSON object; fields that it does not have are left out."""
    if expected is None or not kind.json:
        return {}
    given = dict(iterate_json_fields(_parse_object(answer) or {}))
    wanted = dict(iterate_json_fields(_parse_object(expected) or {}))
    return {
        name: float(name in given and same_json(given[name], wanted[name]))
        for name in kind.field_names if name in wanted
    }  # fmt: skip


def _overlap(said: Sequence[str], meant: Sequence[str], shared: int) -> dict[str, float]:
    either = set(said) | set(meant)
    left, right = Counter(said), Counter(meant)
    lengths = math.sqrt(sum(n * n for n in left.values()) * sum(n * n for n in right.values()))
    dot = sum(number * right[word] for word, number in left.items())
    return {
        "token_f1": _f1(shared, len(said), len(meant)),
        "rouge_1": shared / len(said) if said else 0.0,
        "word_overlap": shared / len(meant) if meant else 0.0,
        "jaccard": len(set(said) & set(meant)) / len(either) if either else 0.0,
        "cosine": min(1.0, dot / lengths) if lengths else 0.0,
    }


def _f1(shared: int, said: int, meant: int) -> float:
    return 2 * shared / (said + meant) if shared else 0.0


def _json_scores(answer: str, expected: str) -> dict[str, float]:
    try:
        given = parse_answer_json(answer)
    except InvalidJsonError:
        return {"json_valid": 0.0, "json_fields": 0.0}
    theirs = dict(iterate_json_fields(given)) if isinstance(given, dict) else {}
    wanted = list(iterate_json_fields(_parse_object(expected) or {}))
    right = sum(name in theirs and same_json(theirs[name], value) for name, value in wanted)
    return {"json_valid": 1.0, "json_fields": right / len(wanted) if wanted else math.nan}


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        value = parse_answer_json(text)
    except InvalidJsonError:
        return None
    return value if isinstance(value, dict) else None
