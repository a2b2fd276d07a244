"""Scoring one answer against the expected one: every measure of a row as a number, NaN where it does not apply.

A missing answer is scored as an empty one: wrong, never skipped.
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
    drop_reasoning,
    is_exact_match,
    iterate_json_fields,
    normalize_words,
    parse_answer_json,
    same_json,
    split_words,
)

OTHER_LABEL = "(something else)"
MAX_SCORED_FIELDS = 40  # the page shows one line per field
_CHRF = CHRF()


@dataclass(frozen=True)
class AnswerKind:
    """What the expected answers are.

    labels: their normalized forms, when they are few. label_names: the most frequent spelling of each. json: whether
    all are objects. field_names: dotted names of the most frequent fields.
    """

    labels: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    json: bool = False
    field_names: tuple[str, ...] = field(default=())


def detect_answer_kind(expected: Sequence[str | None]) -> AnswerKind:
    """Return JSON when every expected answer is an object, labels when at most MAX_ANSWER_LABELS different ones occur.

    Labels must also occur twice or more on average: otherwise a few rows of free text would be taken for labels.
    """
    known = [drop_reasoning(text) for text in expected if text is not None]
    if not known:
        return AnswerKind()
    objects = [_parse_object(text) for text in known]
    if all(value is not None for value in objects):
        counts = Counter(name for value in objects for name, _ in iterate_json_fields(value))
        return AnswerKind(json=True, field_names=tuple(name for name, _ in counts.most_common(MAX_SCORED_FIELDS)))
    forms = sorted({normalize_words(text) for text in known})
    if not (2 <= len(forms) <= MAX_ANSWER_LABELS and len(known) >= 2 * len(forms)):
        return AnswerKind()
    spellings = Counter(" ".join(text.split()) for text in known).most_common()
    names = {normalize_words(text): text for text, _ in reversed(spellings)}
    return AnswerKind(labels=tuple(forms), label_names=tuple(names[form] for form in forms))


def score_answer(answer: str, expected: str | None, kind: AnswerKind) -> dict[str, float]:
    """Return every measure of `MEASURES` except the loss by name; {} without an expected answer.

    Reasoning is no part of an answer: it is dropped from both.
    """
    if expected is None:
        return {}
    answer, expected = drop_reasoning(answer), drop_reasoning(expected)
    answer_words, expected_words = split_words(answer), split_words(expected)
    shared = sum((Counter(answer_words) & Counter(expected_words)).values())
    scores = {
        "exact_match": float(is_exact_match(answer, expected)),
        "same_words": float(normalize_words(answer) == normalize_words(expected)),
        "rouge_l": _f1(LCSseq.similarity(answer_words, expected_words), len(answer_words), len(expected_words)),
        "chrf": _CHRF.sentence_score(answer, [expected]).score / 100,
        "length_difference": float(abs(len(answer) - len(expected))),
        "length_ratio": len(answer) / len(expected) if expected else math.nan,
        **_overlap(answer_words, expected_words, shared),
    }
    if not expected_words:  # only punctuation or an emoji: there are no words to overlap
        for name in ("rouge_l", "token_f1", "rouge_1", "word_overlap", "jaccard", "cosine"):
            scores[name] = scores["exact_match"]
    if kind.labels:
        scores["label_accuracy"] = scores["same_words"]
    if kind.json:
        scores.update(_json_scores(answer, expected))
    return scores


def match_answer_label(answer: str, kind: AnswerKind) -> str:
    """Return the label that an answer names, or OTHER_LABEL."""
    form = normalize_words(drop_reasoning(answer))
    return form if form in kind.labels else OTHER_LABEL


def score_json_fields(answer: str, expected: str | None, kind: AnswerKind) -> dict[str, float]:
    """Return 1 or 0 for each of `kind.field_names` that the expected JSON object has."""
    if expected is None or not kind.json:
        return {}
    given = dict(iterate_json_fields(_parse_object(drop_reasoning(answer)) or {}))
    required = dict(iterate_json_fields(_parse_object(drop_reasoning(expected)) or {}))
    return {
        name: float(name in given and same_json(given[name], required[name]))
        for name in kind.field_names
        if name in required
    }


def _overlap(answer_words: Sequence[str], expected_words: Sequence[str], shared: int) -> dict[str, float]:
    """Return the measures of word overlap. shared: words in common, counted as often as they occur in both."""
    either = set(answer_words) | set(expected_words)
    left, right = Counter(answer_words), Counter(expected_words)
    lengths = math.sqrt(sum(n * n for n in left.values()) * sum(n * n for n in right.values()))
    dot = sum(number * right[word] for word, number in left.items())
    return {
        "token_f1": _f1(shared, len(answer_words), len(expected_words)),
        "rouge_1": shared / len(answer_words) if answer_words else 0.0,
        "word_overlap": shared / len(expected_words) if expected_words else 0.0,
        "jaccard": len(set(answer_words) & set(expected_words)) / len(either) if either else 0.0,
        "cosine": min(1.0, dot / lengths) if lengths else 0.0,
    }


def _f1(shared: int, answer_count: int, expected_count: int) -> float:
    return 2 * shared / (answer_count + expected_count) if shared else 0.0


def _json_scores(answer: str, expected: str) -> dict[str, float]:
    try:
        given = parse_answer_json(answer)
    except InvalidJsonError:
        return {"json_valid": 0.0, "json_fields": 0.0}
    fields = dict(iterate_json_fields(given)) if isinstance(given, dict) else {}
    required = list(iterate_json_fields(_parse_object(expected) or {}))
    correct = sum(name in fields and same_json(fields[name], value) for name, value in required)
    return {"json_valid": 1.0, "json_fields": correct / len(required) if required else math.nan}


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        value = parse_answer_json(text)
    except InvalidJsonError:
        return None
    return value if isinstance(value, dict) else None
