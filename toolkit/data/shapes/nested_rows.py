"""Answers in lists and objects, which become text.

SQuAD writes the answers of a question as lists of objects; annotation tools write lists of labels, forums replies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from toolkit.data.examples import column_names as names
from toolkit.data.table import rows_in_words

_TEXT_KEYS = ("text", "value", "answer", "spans", "number")
_ABOUT_TEXT = frozenset(
    (*_TEXT_KEYS, "answer_start", "answer_end", "start", "end", "offset", "id", "answer_id", "date", "unanswerable")
)
"""Keys of an answer's object besides its text. An object with others is the answer itself: a model is to write JSON."""
_REPLY_KEYS = ("body", "content", "text", "body_text", "body_markdown", "response", "answer", "completion")
"""Keys of what a person replied; one of them is there."""
_SCORE_KEYS = ("score", "points", "rating", "overall_score", "reward")
_ABOUT_REPLY = frozenset(("is_accepted", "accepted", "author", "owner", "user", "votes", "created_at", "rank", "model"))
_PARAGRAPH_KEYS = ("contexts", "paragraphs", "sentences", "passages")
_SCORE_LISTS = frozenset(("scores", "ratings", "rewards", "score", "ranks", "ranking", "rankings", "rank"))
"""Names of the columns that say how good each one in a list of answers is."""
_OUTPUT_WORDS = frozenset(("output", "outputs", "result", "results", "target", "ausgabe", "sortie", "salida", "saída"))
"""Last words of names under which a list is what a model is to write; other lists of answers are alternatives."""
UNCHANGED = object()
"""Returned for a value that is no answer in another form."""


class NestedAnswers:
    """Reads the texts of answers and labels that are lists or objects, and counts them by column.

    keys: those of the rows so far.
    """

    def __init__(self, keys: Collection[str] = ()) -> None:
        self._keys = keys
        self._preferences: set[str] = set()
        self._sorted: dict[str, str] = {}
        self._rows: Counter[str] = Counter()
        self._several: Counter[str] = Counter()
        self._structured: dict[str, bool] = {}

    @property
    def columns(self) -> frozenset[str]:
        """The columns with such answers."""
        return frozenset(self._rows)

    def read(self, column: str, value: Any) -> Any:
        """Return the text, None for an empty list, or UNCHANGED for a value that is something else."""
        if value and column not in self._structured:
            if self._is_preference(column, value):
                self._preferences.add(column)
            self._structured[column] = column not in self._preferences and _is_structured_output(column, value)
        if value and self._structured[column]:
            return UNCHANGED
        text, is_several = read_nested_answer(column, value)
        if text is not UNCHANGED:
            self._rows[column] += 1
            self._several[column] += is_several
        return text

    def _is_preference(self, column: str, value: Any) -> bool:
        """LLaMA-Factory's older layout of preferences: an output is a good and a bad text."""
        is_pair = isinstance(value, list) and len(value) == 2 and all(type(one) is str and " " in one for one in value)
        return column == "output" and "instruction" in self._keys and is_pair

    def put_best_first(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row whose list of answers begins with the one that another list of numbers says is the best."""
        lists = [key for key, value in row.items() if isinstance(value, list) and len(value) > 1]
        if len(lists) < 2:
            return row
        scored = next((key for key in lists if names.normalize_column_name(key) in _SCORE_LISTS), None)
        answers = next((key for key in lists if key != scored and _answer_role(key) == "answer"), None)
        if scored is None or answers is None or len(row[scored]) != len(row[answers]):
            return row
        scores = [_number(score) for score in row[scored]]
        best = scores.index(min(scores) if "rank" in scored.casefold() else max(scores))
        self._sorted[answers] = scored
        return {**row, answers: [row[answers][best], *row[answers][:best], *row[answers][best + 1 :]]}

    def notices(self) -> list[str]:
        """Return a sentence about each column."""
        found = [
            f"Of the answers in '{answers[:40]}', the best by '{scored[:40]}' comes first."
            for answers, scored in self._sorted.items()
        ]
        found += [
            f"'{column}' is a pair of texts as in LLaMA-Factory's older preferences: the first one is the good answer."
            for column in sorted(self._preferences)
        ]
        for column, count in self._rows.items():
            several = self._several[column]
            more = f" In {rows_in_words(several)}, only the first of several is used." if several else ""
            found.append(f"'{column[:40]}' has lists or objects in {rows_in_words(count)}: their texts are used.{more}")
        return found


def read_nested_answer(column: str, value: Any) -> tuple[Any, bool]:
    """Return (text, whether there were several) of an answer or a label in a list or an object.

    The text is None for an empty list, and UNCHANGED for a value that is something else, as one with numbers is.
    """
    role = _answer_role(column)
    if role == "answer":
        return _first_answer(value)
    if role == "annotation":
        return _read_annotations(value)
    if role == "label" and isinstance(value, list):
        found = [each.get("name") if isinstance(each, dict) else each for each in value]
        texts = [each for each in found if type(each) is str]
        if len(texts) == len(found):
            return ", ".join(texts) or None, False
    if role == "context" and (texts := _context_texts(value)):
        return "\n\n".join(texts), False
    if (
        role == "request"
        and isinstance(value, dict)
        and len(value) == 1
        and type(text := next(iter(value.values()))) is str
    ):
        return text, False
    return UNCHANGED, False


def _context_texts(value: Any) -> list[str]:
    """Return the paragraphs of a context: a list of texts, or an object with one (PubMedQA), with titles (HotpotQA).

    [] for another value.
    """
    listed, titles = value, None
    if isinstance(value, dict):
        listed = next((value[key] for key in _PARAGRAPH_KEYS if isinstance(value.get(key), list)), None)
        titles = value.get("title")
    texts = [_join_sentences(each) for each in listed] if isinstance(listed, list) else []
    if not all(type(text) is str for text in texts):
        return []
    if isinstance(titles, list) and len(titles) == len(texts):
        return [f"{title}: {text}" for title, text in zip(titles, texts, strict=True)]
    return texts


def _join_sentences(paragraph: Any) -> Any:
    is_list = isinstance(paragraph, list) and all(type(each) is str for each in paragraph)
    return " ".join(each.strip() for each in paragraph) if is_list else paragraph


def _is_structured_output(column: str, value: Any) -> bool:
    """Return whether a column's first value is a list that a model is to write, not one of alternative answers."""
    is_lines = isinstance(value, list) and all(type(each) is str and each.endswith("\n") for each in value[:-1])
    word = names.normalize_column_name(column).rpartition(" ")[2]
    return word in _OUTPUT_WORDS and isinstance(value, list) and len(value) > 1 and not is_lines


@lru_cache(maxsize=4096)
def _answer_role(column: str) -> str:
    name = names.normalize_column_name(column)
    # a single letter is too weak a name for what replaces a value
    if len(name) > 1 and names.match_name(name, names.ANSWERS) and not names.is_bad_answer_name(name):
        return "answer"
    if name in names.REQUESTS | names.INPUTS:
        return "request"
    if name == "annotations":
        return "annotation"
    if name in names.LABELS or name == "accept":
        return "label"
    return "context" if name in names.CONTEXTS else ""


def _read_annotations(value: Any) -> tuple[Any, bool]:
    """Return (text, whether there were several) of Label Studio's annotations: a choice or a text; else UNCHANGED."""
    done = [one for one in value if isinstance(one, dict) and not one.get("was_cancelled")] if value else []
    results = [one.get("result") for one in done]
    if not results or not all(isinstance(found, list) and len(found) == 1 for found in results):
        return UNCHANGED, False
    first = results[0][0] if results[0] else None
    inner = first.get("value") if isinstance(first, dict) else None
    found = (inner.get("choices") or inner.get("text")) if isinstance(inner, dict) and "start" not in inner else None
    texts = [found] if type(found) is str else found
    if not isinstance(texts, list) or not all(type(text) is str for text in texts):
        return UNCHANGED, False
    return ", ".join(texts), len(done) > 1


def _first_answer(value: Any) -> tuple[Any, bool]:
    if isinstance(value, dict):
        if (right := _right_choice(value)) is not None:
            return right, False
        if (replies := _replies_in_lists(value)) is not None:
            return _best_reply(replies), len(replies) > 1
        if not _is_text_object(value):
            return UNCHANGED, False
        found = next((value[key] for key in _TEXT_KEYS if value.get(key)), UNCHANGED)
        if found is UNCHANGED:
            is_empty = any(key in value for key in _TEXT_KEYS) and not any(value.get(key) for key in value)
            return (None if is_empty else UNCHANGED), False
        return (found, False) if type(found) is str else _first_answer(found)
    if not isinstance(value, list):
        return UNCHANGED, False
    if not value:
        return None, False
    if all(type(each) is str for each in value):
        if len(value) > 1 and all(each.endswith("\n") for each in value[:-1]):
            return "".join(value), False  # the lines of a text
        return value[0], len(set(value)) > 1
    if (reply := _best_reply(value)) is not None:
        return reply, len(value) > 1
    first = value[0]
    texts = [each.get("text", each.get("value")) for each in value if isinstance(each, dict) and _is_text_object(each)]
    if len(texts) == len(value) and all(isinstance(text, str) for text in texts):
        return first.get("text", first.get("value")), len(value) > 1
    return UNCHANGED, False


def _right_choice(value: Mapping[str, Any]) -> str | None:
    """Return the choice that is marked with a 1, as in TruthfulQA; None for another object."""
    choices, marks = value.get("choices"), value.get("labels")
    if not isinstance(choices, list) or not isinstance(marks, list) or len(choices) != len(marks):
        return None
    right = [choice for choice, mark in zip(choices, marks, strict=True) if str(mark) == "1"]
    return right[0] if right and type(right[0]) is str else None


def _replies_in_lists(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the replies of {"text": [...], "score": [...]}, as ELI5 keeps them; None for another object."""
    lists = {key: each for key, each in value.items() if isinstance(each, list) and each}
    if not {"text", "score"} <= lists.keys() or len({len(each) for each in lists.values()}) > 1:
        return None
    if not all(type(text) is str for text in lists["text"]):
        return None
    return [{"text": text, "score": score} for text, score in zip(lists["text"], lists["score"], strict=True)]


def _best_reply(replies: list[Any]) -> str | None:
    """Return the text of the accepted one of the replies of people, else of the one with the best score, or the first.

    None if they are something else.
    """
    if not all(isinstance(each, dict) and any(type(each.get(key)) is str for key in _REPLY_KEYS) for each in replies):
        return None
    if any("role" in each or each.keys().isdisjoint({*_ABOUT_REPLY, *_SCORE_KEYS}) for each in replies):
        return None
    scores = [next((each[key] for key in _SCORE_KEYS if key in each), f"-{each.get('rank', 0)}") for each in replies]
    ranks = [
        (str(each.get("is_accepted", each.get("accepted"))) == "True", _number(score))
        for each, score in zip(replies, scores, strict=True)
    ]
    best = replies[ranks.index(max(ranks))]
    return next(str(best[key]) for key in _REPLY_KEYS if type(best.get(key)) is str)


def _number(value: Any) -> float:
    text = str(value)
    return float(text) if text.removeprefix("-").replace(".", "", 1).isdecimal() else 0.0


def _is_text_object(value: Mapping[str, Any]) -> bool:
    """Return whether an object is an answer's text with its place, or with other spellings of it."""
    return value.keys() <= _ABOUT_TEXT or "aliases" in value
