"""Suggest what to train on: a pair of templates, a column of conversations, or a question with the choices.

The names of the columns decide together with a sample of their cells. Where two choices are close, nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from toolkit.data.conversations import is_blank_cell
from toolkit.data.examples import column_names as names
from toolkit.data.examples.column_contents import describe_cells, sample_table_rows
from toolkit.data.examples.optional_columns import find_optional_columns
from toolkit.data.examples.prompt_columns import (
    MIN_CONTEXT_RATIO,
    NamedColumn,
    choose_prompts,
    drop_rendered_copies,
    find_choice_columns,
    find_named,
    note_bad_answers,
    pick_verdict_column,
)
from toolkit.data.read_options import MAX_LISTED
from toolkit.data.table import Table, TableRow, rows_in_words

MAX_CANDIDATES = 4
"""Pairs of templates among which a user chooses."""
_CONVERSATION_NAMES = ("messages", "conversations", "conversation", "chosen", "chat", "dialogue", "dialog")


@dataclass(frozen=True)
class ColumnSuggestion:
    """What to train on.

    kind: "pair" suggests the templates `prompt` and `completion`, "conversations" the column `messages`, and "ask"
    nothing: the user chooses among `candidates`, pairs of templates. notes: what the user has to know, in sentences.
    optional: columns of the prompt whose missing cells count as empty text (`data.optional_columns`).
    """

    kind: Literal["pair", "conversations", "ask"]
    prompt: str = ""
    completion: str = ""
    messages: str | None = None
    candidates: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())
    optional: tuple[str, ...] = ()


def suggest_for_table(table: Table) -> ColumnSuggestion:
    """Return the suggestion for a table from its columns and a sample of its rows."""
    found = suggest_columns(table.columns, sample_table_rows(table), table.chats)
    if found.kind == "pair" and not found.prompt:
        column = found.completion.strip("{}")
        note = f"The prompt is empty: the model learns to write texts like those in '{column}' without any input."
        found = replace(found, notes=(*found.notes, note))
    pairs = found.candidates or ((found.prompt, found.completion),)
    speakers = [f"'{offer.options.answered_by}'" for offer in table.offers if offer.options.answered_by]
    if speakers and found.kind != "conversations":
        rows = "Each row is a single message, and" if table.offers[-1].options.join_messages else "Each message"
        note = f"{rows} names who wrote it. Choose who answers: {', '.join(speakers)}."
        return ColumnSuggestion("ask", candidates=pairs, notes=(note,))
    threads = next((offer for offer in table.offers if offer.options.join_messages), None)
    if threads is not None and (found.kind == "ask" or may_be_messages(found)):
        note = f"Each row is a single message. To train on conversations, choose '{threads.label}'."
        return ColumnSuggestion(
            "ask", candidates=found.candidates or ((found.prompt, found.completion),), notes=(note,)
        )
    found = replace(found, notes=(*found.notes, *_unused_reasoning_notes(found, table)))
    optional = find_optional_columns(found.prompt, found.completion, table)
    unused = describe_unused_columns(table, found.messages) if found.messages else ""
    notes = (*found.notes, *(_optional_note(column, table.missing[column]) for column in optional))
    return replace(found, optional=optional, notes=(*notes, *([unused] if unused else [])))


def may_be_messages(suggestion: ColumnSuggestion) -> bool:
    """Return whether no column is named as an answer: the rows may be messages of people."""
    name = names.normalize_column_name(suggestion.completion)
    return suggestion.kind != "conversations" and not names.match_name(
        name, names.ANSWERS | names.LABELS | names.DERIVED
    )


def describe_unused_columns(table: Table, messages: str) -> str:
    """Return a sentence that names the columns with text which training on conversations does not use, or "".

    messages: the column of conversations.
    """
    used, rows = {messages, *table.joined.get(messages, ())}, sample_table_rows(table)
    rest = [column for column in table.columns if column not in used]
    unused = [f"'{column[:40]}'" for column in rest if any(not is_blank_cell(row.get(column)) for row in rows)]
    shown = ", ".join(unused[:MAX_LISTED]) + (", …" if len(unused) > MAX_LISTED else "")
    return f"Not used for training: {'column' if len(unused) == 1 else 'columns'} {shown}." if unused else ""


def suggest_columns(
    columns: Sequence[str], rows: Sequence[TableRow], chats: Mapping[str, str] | None = None
) -> ColumnSuggestion:
    """Return the suggestion for these columns with this sample of rows. chats: as in `Table`."""
    if conversations := _choose_conversations(chats or {}):
        return conversations
    found = _named_columns(columns, rows)
    if note := _single_messages_note(found):
        texts = [one for one in found if one.name in names.MESSAGE_TEXTS]
        return ColumnSuggestion("ask", candidates=_text_alone(texts), notes=(note,))
    answers, notes = _choose_answers(found)
    pairs: list[tuple[str, str]] = []
    sure = len(answers) == 1
    for answer in answers:
        prompts = choose_prompts(drop_rendered_copies(found, answer, rows), answer)
        sure = sure and len(prompts) == 1
        pairs += [(prompt, _slot(answer.column)) for prompt in prompts]
    verdict = pick_verdict_column(found) if answers else None
    if verdict is not None and not (verdict.is_review or names.match_name(answers[0].name, names.ANSWERS)):
        verdict = None
    if verdict is not None:
        notes += (note_bad_answers(verdict, rows),)
    sure = sure and not any(
        (one.is_flag or one.is_mark) and not names.match_name(one.name, names.OUTCOMES) for one in answers
    )
    if verdict is None and (reversed_pairs := _reverse_pairs(found, answers, pairs)):
        notes += (f"The text in '{reversed_pairs[0][1].strip('{}')}' may be what the model reads or what it writes.",)
        pairs, sure = [*reversed_pairs, *(pairs or _pair_texts(found, answers))], False
    candidates = tuple(dict.fromkeys(pairs))[:MAX_CANDIDATES]
    if candidates and sure and verdict is None:
        return ColumnSuggestion("pair", *candidates[0], notes=notes)
    if candidates:
        return ColumnSuggestion("ask", candidates=candidates, notes=notes)
    alone = _text_alone(found)
    if len(alone) == 1 and _is_only_text(found):
        return ColumnSuggestion("pair", *alone[0])
    return ColumnSuggestion("ask", candidates=(*_pair_texts(found, answers), *alone)[:MAX_CANDIDATES])


def _choose_conversations(chats: Mapping[str, str]) -> ColumnSuggestion | None:
    usable = [column for column in chats if not names.is_bad_answer_name(names.normalize_column_name(column))]
    if not usable:
        return None
    by_name = {names.normalize_column_name(column): column for column in reversed(usable)}
    valid = [column for column in usable if not chats[column]]
    named = [by_name[name] for name in _CONVERSATION_NAMES if name in by_name]
    chosen = next((column for column in named if column in valid), (valid or named or usable)[0])
    left_out = [column for column in chats if column not in usable]
    return ColumnSuggestion("conversations", messages=chosen, notes=_rejected_notes(chosen, left_out))


def _named_columns(columns: Sequence[str], rows: Sequence[TableRow]) -> list[NamedColumn]:
    """Return the columns that a template can use and that are not empty throughout."""
    described = [
        NamedColumn(column, names.normalize_column_name(column), describe_cells([row.get(column) for row in rows]))
        for column in columns
        if "{" not in column and "}" not in column
    ]
    return [one for one in described if one.content.kind != "empty" or not rows]


def _single_messages_note(found: Sequence[NamedColumn]) -> str:
    """Return the note of a table whose rows are single messages, or "" if they are not."""
    roles = [one for one in found if one.name in names.ROLES and one.content.kind in ("values", "text")]
    texts = [one for one in found if one.name in names.MESSAGE_TEXTS]
    if not roles or not texts or any(one.name in names.ANSWERS | names.LABELS for one in found):
        return ""
    known = [one for one in roles if one.content.lower_values and one.content.lower_values <= names.ROLE_VALUES]
    only_metadata = all(
        one in roles or one in texts or names.is_metadata_name(one.name) or one.name in names.WEAK_LABELS
        for one in found
    )
    if not known and not (only_metadata and roles[0].name in ("from", "speaker", "sender")):
        return ""
    return (
        f"Each row is a single message: '{roles[0].column}' says who wrote it. To train on conversations, put the "
        "messages of each conversation into one row, as a list of objects with role and content."
    )


def _choose_answers(found: Sequence[NamedColumn]) -> tuple[list[NamedColumn], tuple[str, ...]]:
    """Return the columns that may be the completion, one if it is certain, and notes about it."""
    texts = [one for one in found if one.content.kind in ("text", "values", "constant", "nested")]
    texts = [one for one in texts if not names.is_metadata_name(one.name)]
    rejected = [one.column for one in texts if names.is_preference_name(one.name, names.REJECTED)]
    chosen = find_named(texts, names.CHOSEN) or [
        one for one in texts if rejected and names.is_preference_name(one.name, names.CHOSEN)
    ]
    if chosen:
        return chosen, _rejected_notes(chosen[0].column, rejected)
    good = [one for one in found if not names.is_bad_answer_name(one.name) and not _is_choice(one, found)]
    answers = [one for one in find_named(good, names.ANSWERS) if one.is_answer]
    answers = [one for one in answers if one.content.kind != "constant"] or answers
    answers = answers or [one for one in find_named(good, names.ANSWERING_SPEAKERS) if one.is_answer]
    outcomes = _label_columns(good)
    if answers:
        asked = find_named(good, names.REQUESTS | names.INPUTS | names.SPEAKERS | names.SOURCES)
        strong = [one for one in outcomes if one.name in names.LABELS | names.DERIVED]
        close = [] if asked or not find_named(good, names.TEXTS) or pick_verdict_column(found) else strong
        return [*answers, *close], ()
    keys = [one for one in good if one.names_choice]
    if len(keys) == 1 and find_choice_columns(good):
        return keys, ()
    languages = [one for one in good if one.name in names.LANGUAGES and one.content.kind == "text"]
    if len(languages) == 2:  # usually the first one is the original
        return languages[::-1], ()
    # 0 and 1 in several columns are what a text is marked as, whatever they are named
    return outcomes or _unnamed_answers(good) or _flags(good), ()


def _reverse_pairs(
    found: Sequence[NamedColumn], answers: Sequence[NamedColumn], pairs: Sequence[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return pairs whose completion is a text that `pairs` have as a prompt, if it is as likely to be written.

    A description may be classified or written for a product, and an article may belong to its headline or be made
    from it. A column that is named as the answer leaves no doubt.
    """
    certain = names.ANSWERS | names.CHOSEN | names.ANSWERING_SPEAKERS | names.TARGETS | names.LANGUAGES
    if any(names.match_name(one.name, certain) for one in answers) or find_named(found, names.REQUESTS):
        return []
    things = [one for one in find_named(found, names.THINGS) if one.content.kind in ("text", "values", "nested")]
    texts = [one for one in find_named(found, names.WRITTEN_TEXTS) if one.content.kind == "text" and one not in things]
    if texts and things:
        return [("\n\n".join(_slot(one.column) for one in things), _slot(texts[0].column))]
    text = {_slot(one.column): one for one in found if one.content.kind == "text"}
    weak = [one for one in answers if one.name in names.WEAK_LABELS - names.LABELS and one.content.kind != "text"]
    if weak and len(weak) == len(answers) and len([one for one in text.values() if one.is_free]) > 1:
        return list(_pair_texts(found, ()))  # a topic or a language is often metadata
    return [
        (completion, prompt)
        for prompt, completion in pairs
        if prompt in text and completion in text and _may_be_reversed(text[prompt], text[completion])
    ]


def _may_be_reversed(prompt: NamedColumn, answer: NamedColumn) -> bool:
    longer = answer.content.words > MIN_CONTEXT_RATIO * prompt.content.words  # a translation has about the same length
    is_longer = longer and names.match_name(answer.name, names.DERIVED)
    return bool(is_longer or names.match_name(answer.name, names.THINGS))


def _flags(good: Sequence[NamedColumn]) -> list[NamedColumn]:
    """Return the columns of 0 and 1, also one such as "is_toxic", which may be metadata as well."""
    flags = [one for one in good if one.is_flag or (one.is_mark and one.content.lower_values <= {"true", "false"})]
    found = [one for one in flags if one.is_mark or not names.is_metadata_name(one.name)]
    return found if find_named(good, names.TEXTS | names.REQUESTS) else []


def _label_columns(good: Sequence[NamedColumn]) -> list[NamedColumn]:
    labels = [one for one in find_named(good, names.LABELS) if one.is_label]
    derived = [one for one in find_named(good, names.DERIVED) if one.content.kind in ("text", "values")]
    if labels or derived:
        return [*labels, *derived]
    weak = [one for one in find_named(good, names.WEAK_LABELS) if one.is_label and one.content.kind != "constant"]
    # a topic or a language is often metadata: any other column with few values is as likely what is to be predicted
    others = [one for one in good if one.is_free and one.content.kind == "values" and one not in weak]
    return [*weak, *others] if weak else []


def _unnamed_answers(good: Sequence[NamedColumn]) -> list[NamedColumn]:
    """Return the columns that may be the completion when no name says so."""
    named = names.REQUESTS | names.TEXTS | names.CONTEXTS | names.SUBJECTS
    free = [one for one in good if one.is_free and not names.match_name(one.name, named)]
    asked = find_named(good, names.REQUESTS | names.TEXTS)
    if asked:
        return free
    values = [one for one in free if one.content.kind == "values"]
    return values or (free if len(free) > 1 else [])


def _is_choice(column: NamedColumn, found: Sequence[NamedColumn]) -> bool:
    """Return whether a column named "a" is the first of several choices, or of columns without real names."""
    return column.name == "a" and not any(one.name in names.REQUESTS and one.name == "q" for one in found)


def find_verdict_column(table: Table, *, only_reviews: bool = False) -> str | None:
    """Return the column that says whether the answer of a row is a good one.

    only_reviews: no true/false column, which may belong to something else than the label that is trained on.
    """
    rows = sample_table_rows(table)
    verdict = pick_verdict_column(_named_columns(table.columns, rows))
    return verdict.column if verdict and (verdict.is_review or not only_reviews) else None


def _rejected_notes(chosen: str, rejected: Sequence[str]) -> tuple[str, ...]:
    if not rejected:
        return ()
    return (f"The model is trained on the answers in '{chosen}'. Those in '{rejected[0]}' are not used.",)


def _unused_reasoning_notes(found: ColumnSuggestion, table: Table) -> tuple[str, ...]:
    """Return a note about a column with the thoughts before the answer that the suggested templates leave out."""
    used = found.prompt + found.completion
    columns = [name for name in table.columns if names.is_reasoning_name(names.normalize_column_name(name))]
    left = [column for column in columns if _slot(column) not in used and table.missing[column] < table.rows]
    if found.kind != "pair" or not left:
        return ()
    return (
        f"The reasoning in '{left[0][:40]}' is not used: the model learns the answer alone. To train it as well, write "
        f"{{{left[0][:40]}}} in front of the answer in the completion template.",
    )


def _optional_note(column: str, missing: int) -> str:
    return f"'{column}' has missing cells in {rows_in_words(missing)}. They count as empty text, so no row is skipped."


def _text_alone(found: Sequence[NamedColumn]) -> tuple[tuple[str, str], ...]:
    """Return candidates with an empty prompt: the columns of free text."""
    texts = [one for one in found if one.is_free] or [one for one in found if not names.is_metadata_name(one.name)]
    texts = [one for one in texts if not names.is_bad_answer_name(one.name)]
    return tuple(("", _slot(one.column)) for one in texts[:MAX_CANDIDATES])


def _pair_texts(found: Sequence[NamedColumn], answers: Sequence[NamedColumn]) -> tuple[tuple[str, str], ...]:
    """Return pairs of a text and a later one, or the answer, for a table whose names say too little."""
    texts = [one for one in found if one.content.kind == "text" and not names.is_bad_answer_name(one.name)]
    texts = [one for one in texts if one.name not in names.ROLES]
    pairs = [(one, later) for at, one in enumerate(texts) for later in answers or texts[at + 1 :] if one is not later]
    if not answers:  # from a title to its text, and the reverse
        pairs = [turned for pair in pairs for turned in _both_directions(*pair)]
    return tuple((_slot(one.column), _slot(later.column)) for one, later in pairs[:MAX_CANDIDATES])


def _both_directions(one: NamedColumn, later: NamedColumn) -> list[tuple[NamedColumn, NamedColumn]]:
    things = [names.match_name(each.name, names.THINGS) > 0 for each in (one, later)]
    if things[0] == things[1]:
        return [(one, later)]
    return [(one, later), (later, one)] if things[0] else [(later, one), (one, later)]


def _slot(column: str) -> str:
    return f"{{{column}}}"


def _is_only_text(found: Sequence[NamedColumn]) -> bool:
    """Return whether one column holds plain text that is no request, and all others hold metadata."""
    texts = [one for one in found if one.is_free]
    others = [one for one in found if one not in texts]
    plain = [one for one in others if one.content.kind in ("id", "number", "date", "link", "constant")]
    # two columns are usually a pair, whatever the name of the other one says
    named = [one for one in others if one.content.kind == "values" and names.is_metadata_name(one.name)]
    known = plain if len(found) == 2 else [*plain, *named]
    is_metadata = len(known) == len(others) and not find_named(others, names.RATINGS)
    return len(texts) == 1 and is_metadata and (not others or texts[0].name not in names.REQUESTS)
