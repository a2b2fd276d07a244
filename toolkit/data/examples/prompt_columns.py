"""Choose the columns that make the prompt for a given answer column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

from toolkit.data.examples import column_names as names
from toolkit.data.examples.column_contents import MIN_JUDGED_CELLS, ColumnContent
from toolkit.data.table import TableRow

MIN_CONTEXT_RATIO = 2.0
"""A text next to a question may be its context if it has this many times the words."""
MAX_LABEL_WORDS = 8.0
MAX_UNIQUE_LABEL_WORDS, MIN_SENTENCE_SHARE = 3.0, 0.9
"""Longer cells of which so many differ are sentences, whatever their column is named: CoNaLa's intent."""
_CHOICE_LETTERS = ascii_lowercase[:10]
_BAD_WORDS = frozenset(("thumbs_down", "thumbs down", "down", "downvote", "dislike", "bad", "negative", "-1"))
_GOOD_WORDS = frozenset(("thumbs_up", "thumbs up", "up", "upvote", "like", "good", "positive", "1"))
FALSE_VALUES = frozenset({"false", "no", "0", "0.0", "reject", "ignore"}) | _BAD_WORDS
_VERDICT_VALUES = frozenset({"false", "no", "0", "0.0", "true", "yes", "1", "1.0"})
_OPINIONS = frozenset(("feedback", "user feedback", "thumbs", "thumb", "reaction", "vote", "rating", "user rating"))
"""Columns in which people say with a word whether they like an answer."""
REVIEW_VALUES = frozenset(("accept", "reject", "ignore"))
"""What annotators say about a row in Prodigy's column `answer`: no answer to train on."""


@dataclass(frozen=True)
class NamedColumn:
    """A column with its normalized name and its content."""

    column: str
    name: str
    content: ColumnContent

    @property
    def is_free(self) -> bool:
        """Whether neither name nor content rules the column out as part of an example."""
        fits = self.content.can_be_prompt or self.content.kind == "empty"
        return fits and not names.is_metadata_name(self.name) and not names.is_placeholder_name(self.name)

    @property
    def is_answer(self) -> bool:
        """Whether the cells of a column named as an answer may be one."""
        return (self.content.kind not in ("date", "link") or self.name in names.ANSWERS) and not self.is_review

    @property
    def is_review(self) -> bool:
        """Whether the cells say what an annotator thought of the row."""
        return "accept" in self.content.lower_values and self.content.lower_values <= REVIEW_VALUES

    @property
    def is_flag(self) -> bool:
        """Whether the cells are 0 and 1."""
        return {value.removesuffix(".0") for value in self.content.lower_values} == {"0", "1"}

    @property
    def is_mark(self) -> bool:
        """Whether the name is that of a mark on the row, such as "is_toxic"."""
        return self.name.startswith(("is ", "has "))

    @property
    def names_choice(self) -> bool:
        """Whether the cells are letters of choices."""
        values = self.content.lower_values
        return len(values) > 1 and all(len(value) == 1 and value in _CHOICE_LETTERS for value in values)

    @property
    def is_label(self) -> bool:
        """Whether the cells of a column named as a label may be one."""
        kinds = ("values", "number", "text", "constant", "empty")
        cells = self.content
        are_unique = cells.distinct >= MIN_SENTENCE_SHARE and cells.values >= MIN_JUDGED_CELLS
        longest = MAX_UNIQUE_LABEL_WORDS if cells.kind == "text" and are_unique else MAX_LABEL_WORDS
        return cells.kind in kinds and cells.words <= longest


def find_named(columns: Sequence[NamedColumn], words: frozenset[str]) -> list[NamedColumn]:
    """Return the columns whose names are among the words; if there are none, those whose last word is."""
    exact = [one for one in columns if one.name in words]
    last = exact or [one for one in columns if names.match_name(one.name, words)]
    return last or [one for one in columns if one.content.kind == "text" and names.match_sentence(one.name, words)]


def drop_rendered_copies(
    found: Sequence[NamedColumn], answer: NamedColumn, rows: Sequence[TableRow]
) -> list[NamedColumn]:
    """Return the columns without the answer and without those whose cells hold both the request and the answer.

    These are finished training texts next to their parts: as a prompt they would give the answer away. Columns without
    a role whose cells are parts of the context (HellaSwag's ctx_a and ctx_b) are left out as well.
    """
    rest = [one for one in found if one is not answer]
    requests = find_named(rest, names.REQUESTS)
    copies = [one for one in rest if any(_holds_both(one, request, answer, rows) for request in requests)]
    contexts = [one for one in rest if one.name in names.CONTEXTS]
    parts = [one for one in rest if one.name not in names.REQUESTS | names.TEXTS and one not in contexts]
    copies += [one for one in parts if any(_is_part(one, context, rows) for context in contexts)]
    return [one for one in rest if one not in copies]


def _is_part(one: NamedColumn, whole: NamedColumn, rows: Sequence[TableRow]) -> bool:
    cells = [(part, row.get(whole.column) or "") for row in rows if (part := (row.get(one.column) or "").strip())]
    return one.is_free and bool(cells) and all(part in text for part, text in cells)


def _holds_both(one: NamedColumn, request: NamedColumn, answer: NamedColumn, rows: Sequence[TableRow]) -> bool:
    if one is request or one.content.words <= request.content.words:
        return False
    cells = [[(row.get(each.column) or "").strip() for each in (one, request, answer)] for row in rows]
    filled = [(text, asked, said) for text, asked, said in cells if text and asked and said]
    return bool(filled) and all(asked in text and said in text for text, asked, said in filled)


def choose_prompts(rest: Sequence[NamedColumn], answer: NamedColumn) -> list[str]:
    """Return the prompt templates that may belong to the answer: one if it is certain. rest: the other columns."""
    good = [one for one in rest if not names.is_preference_name(one.name, names.REJECTED | names.CHOSEN)]
    choices = find_choice_columns(good)
    good = [one for one in good if one not in choices]
    if requests := _usable(find_named(good, names.REQUESTS), good):
        options = _request_options(requests, good)
    else:
        options = _text_options(good, answer)
    return [_template(option, choices, as_letters=answer.names_choice) for option in options if option]


def _usable(found: Sequence[NamedColumn], good: Sequence[NamedColumn]) -> list[NamedColumn]:
    """Return the columns whose cells can be a prompt; in a table of two columns, a name is enough."""
    fits = [one for one in found if one.content.kind not in ("id", "date", "link", "constant", "number")]
    inputs = [one for one in good if one.name in names.INPUTS | names.TEXTS and one.content.can_be_prompt]
    if inputs:  # an instruction that is the same in every row still belongs to its input
        return fits or [one for one in found if one.content.kind == "constant"]
    numbers = [one for one in found if one.content.kind == "number" and one.name in names.REQUESTS | names.TEXTS]
    return fits or numbers or ([one for one in found if one.content.kind != "constant"] if len(good) == 1 else [])


def _request_options(requests: list[NamedColumn], good: Sequence[NamedColumn]) -> list[list[NamedColumn]]:
    contexts = _contexts(good)
    if len(requests) > 1:
        return _several_requests(requests, contexts)
    main = requests[0]
    inputs = [one for one in good if one.name in names.INPUTS and one.content.kind in ("text", "values", "number")]
    texts = [one for one in find_named(good, names.TEXTS) if one.content.can_be_prompt and one not in inputs]
    if inputs:
        return [[*contexts, main, inputs[0]]]
    if main.content.kind in ("values", "constant") and texts:
        return [[*contexts, main, one] for one in texts]
    long = [one for one in texts if one.content.words >= MIN_CONTEXT_RATIO * main.content.words]
    if long and not contexts:
        return [[long[0], main], [main]]
    return [[*contexts, main]]


def _several_requests(requests: list[NamedColumn], contexts: list[NamedColumn]) -> list[list[NamedColumn]]:
    """A repeated instruction belongs in front of a question; of two questions the user chooses one."""
    repeated = [one for one in requests if one.content.kind == "values"]
    own = [one for one in requests if one.content.kind == "text"]
    if len(repeated) == 1 and len(own) == 1:
        return [[*contexts, repeated[0], own[0]]]
    return [[*contexts, one] for one in own or requests]


def _text_options(good: Sequence[NamedColumn], answer: NamedColumn) -> list[list[NamedColumn]]:
    contexts = _contexts(good)
    speakers = [one for one in find_named(good, names.SPEAKERS) if one.content.kind == "text"]
    if answer.name in names.ANSWERING_SPEAKERS and speakers:
        return [[*contexts, speakers[0]]]
    if answer.name in names.TARGETS and (sources := [one for one in good if one.name in names.SOURCES]):
        return [[*contexts, sources[0]]]
    if answer.name in names.LANGUAGES:
        return [[one] for one in good if one.name in names.LANGUAGES and one is not answer]
    texts = _usable(find_named(good, names.TEXTS), good)
    subjects = [one for one in find_named(good, names.SUBJECTS) if one.content.kind == "text"]
    if texts:
        mails = [one for one in texts if one.name in names.MAIL_TEXTS]
        if len(texts) == 1 and mails and subjects:
            return [[*contexts, subject, mails[0]] for subject in subjects]
        return [[*contexts, one] for one in texts]
    if numbered := _numbered_texts(good):
        return [[*contexts, *numbered]]
    free = [one for one in good if one.is_free and one not in contexts]
    texts_only = [one for one in free if not names.match_name(one.name, names.LABELS | names.WEAK_LABELS)]
    free = texts_only or ([] if contexts else free)
    if not free and contexts:
        return [contexts]
    if not free and len(good) == 1 and good[0].content.kind in ("number", "text", "values", "nested"):
        return [[good[0]]] if not names.is_metadata_name(good[0].name) else []
    long = [one for one in free if one.content.kind == "text"]
    return [[*contexts, one] for one in long or free]


def _numbered_texts(good: Sequence[NamedColumn]) -> list[NamedColumn]:
    """Return the texts that are compared with each other, such as sentence1 and sentence2."""
    stems: dict[str, list[NamedColumn]] = {}
    for one in good:
        stem = one.name.rstrip("0123456789").strip()
        if stem != one.name and stem in names.TEXTS | names.REQUESTS and one.content.can_be_prompt:
            stems.setdefault(stem, []).append(one)
    return next((group for group in stems.values() if len(group) > 1), [])


def _contexts(good: Sequence[NamedColumn]) -> list[NamedColumn]:
    found = find_named(good, names.CONTEXTS)
    return [one for one in found if one.content.kind in ("text", "values", "nested")][:1]


def find_choice_columns(good: Sequence[NamedColumn]) -> list[NamedColumn]:
    """Return the columns of the choices of a multiple-choice question: one list, or one column for each letter."""
    lists = [one for one in find_named(good, names.CHOICES) if not names.is_metadata_name(one.name)]
    if lists:
        return lists[:1]
    found = {letter: one for one in good if (letter := names.read_choice_letter(one.name))}
    wanted = names.REQUESTS | (names.TEXTS | names.CONTEXTS if "1" in found else frozenset())
    asked = any(names.match_name(one.name, wanted) for one in good)
    is_list = {"a", "b"} <= found.keys() or {"1", "2"} <= found.keys() or {"0", "1"} <= found.keys()
    is_unique = len(found) == sum(names.read_choice_letter(one.name) is not None for one in good)
    return [found[letter] for letter in sorted(found)] if asked and is_list and is_unique else []


def _template(parts: Sequence[NamedColumn], choices: Sequence[NamedColumn], *, as_letters: bool) -> str:
    """Return the prompt. as_letters: the choices have letters instead of the numbers in the names of their columns."""
    text = "\n\n".join(f"{{{one.column}}}" for one in parts)
    lines = []
    for letter, one in zip(ascii_uppercase, choices, strict=False):
        named = names.read_choice_letter(one.name)
        mark = letter if as_letters else (named or "").upper()
        lines.append(f"{mark}. {{{one.column}}}" if named else f"{{{one.column}}}")
    return text + ("\n\n" + "\n".join(lines) if lines else "")


def pick_verdict_column(found: Sequence[NamedColumn]) -> NamedColumn | None:
    """Return the column that says whether the answer of a row is a good one."""
    for one in found:
        values = one.content.lower_values
        is_verdict = one.name in names.VERDICTS and len(values) == 2 and values <= _VERDICT_VALUES
        is_opinion = one.name in _OPINIONS and len(values) == 2 and values <= _GOOD_WORDS | _BAD_WORDS
        if is_verdict or is_opinion or (one.is_review and len(values) > 1):
            return one
    return None


def note_bad_answers(verdict: NamedColumn, rows: Sequence[TableRow]) -> str:
    """Return the note of a table with such a column."""
    cells = [(row.get(verdict.column) or "").strip().casefold() for row in rows]
    bad = sum(cell in FALSE_VALUES for cell in cells)
    return (
        f"'{verdict.column}' marks each answer as good or bad; {bad} of {len(cells)} sampled answers are bad. The "
        "model would be trained on these as well: remove them under Data checks."
    )
