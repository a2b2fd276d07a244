"""The hard stops, one function each: does this prepared row have the fault? And what is said about those that have.

Knows rows and a tokenizer, no table and no question. `faults.py` counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from toolkit.data.examples.templates import Example
from toolkit.worker.tokens.examples import tokenize_examples

_BRACES = re.compile(r"\{\s*([^{}\n]{1,100}?)\s*\}")
MIN_MARK_CHARACTERS = 4
"""Characters; less of a chat template's text stands in any prose."""
_USER, _ANSWER = "\u2063user\u2063", "\u2063answer\u2063"


@dataclass(frozen=True)
class PromptFrame:
    """What is the same for every row. bos: beginnings that the form itself puts. marks: texts of the chat template."""

    tokenizer: PreTrainedTokenizerBase
    chat: bool
    length: int
    completion_only: bool
    columns: frozenset[str]
    bos: int
    marks: tuple[str, ...]

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, chat: bool, length: int, completion_only: bool, columns: Sequence[str]
    ) -> PromptFrame:
        (plain,) = tokenize_examples([Example("x", "y")], tokenizer, chat)
        doubled = plain.ids[:2] == [tokenizer.bos_token_id] * 2
        bos = 0 if doubled else plain.ids.count(tokenizer.bos_token_id)
        names = frozenset(column.strip().casefold() for column in columns)
        return cls(tokenizer, chat, length, completion_only, names, bos, _template_marks(tokenizer) if chat else ())


class CheckedRow(NamedTuple):
    """One row: its texts, its whole tokens, and what is left of them. asked: tokens of the prompt as the model would be
    asked; begins: where the completion does; trained: tokens that are learned; ends: whether the end is one of them."""

    prompt: str
    completion: str
    ids: Sequence[int]
    asked: int
    begins: int
    trained: int
    ends: bool
    mask_wrong: bool


def _template_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """What the chat template writes around the two texts, and the special tokens among it."""
    turns = [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    around = [part.strip() for part in re.split(f"{_USER}|{_ANSWER}", text)]
    marks = {
        mark for mark in [*tokenizer.all_special_tokens, *around] if len(mark) >= MIN_MARK_CHARACTERS and mark in text
    }
    return tuple(sorted(marks, key=text.index))


def prompt_too_long(row: CheckedRow, form: PromptFrame) -> bool:
    return row.begins > form.length


def nothing_trained(row: CheckedRow, form: PromptFrame) -> bool:
    return not row.trained and not prompt_too_long(row, form)


def double_bos(row: CheckedRow, form: PromptFrame) -> bool:
    bos = form.tokenizer.bos_token_id
    return bos is not None and bos != form.tokenizer.eos_token_id and list(row.ids).count(bos) > form.bos


def end_untrained(row: CheckedRow, form: PromptFrame) -> bool:
    return bool(row.trained) and not row.ends


def placeholder(row: CheckedRow, form: PromptFrame) -> bool:
    return bool(find_unfilled_placeholder(row.prompt, form) or find_unfilled_placeholder(row.completion, form))


def find_unfilled_placeholder(text: str, form: PromptFrame) -> str:
    """The first {column} that still stands in a rendered text, or ""."""
    if "{" not in text:
        return ""
    hits = (match for match in _BRACES.finditer(text) if match.group(1).casefold() in form.columns)
    return next((match.group() for match in hits), "")


def mask_wrong(row: CheckedRow, form: PromptFrame) -> bool:
    return row.mask_wrong


def boundary_merged(row: CheckedRow, form: PromptFrame) -> bool:
    return row.begins < row.asked


def template_twice(row: CheckedRow, form: PromptFrame) -> bool:
    return bool(find_template_mark(row, form))


def find_template_mark(row: CheckedRow, form: PromptFrame) -> str:
    """The first mark of the chat template that a row's own texts hold, or ""."""
    return next((mark for mark in form.marks if mark in row.prompt or mark in row.completion), "")


HardStopRule = Callable[[CheckedRow, PromptFrame], bool]
HARD_STOP_RULES: dict[str, HardStopRule] = {
    rule.__name__: rule
    for rule in (
        prompt_too_long, nothing_trained, double_bos, end_untrained, placeholder, mask_wrong, boundary_merged,
        template_twice,
    )
}  # fmt: skip


def describe_hard_stop(kind: str, rows: str, first: CheckedRow, longest: int, form: PromptFrame) -> tuple[str, str]:
    """(message, hint). rows: "3 of 500 rows"; first: the first row concerned; longest: tokens of the longest row."""
    tokenizer, length = form.tokenizer, f"{form.length:,}"
    raise_it = f"Raise max_seq_length (the longest example has {longest:,} tokens)"
    return {
        "prompt_too_long": (
            f"In {rows} the prompt alone is longer than max_seq_length, {length} tokens: no answer is left.",
            f"{raise_it}, or shorten the prompt template.",
        ),
        "nothing_trained": (
            f"In {rows} nothing is left to learn within max_seq_length, {length} tokens.",
            f"{raise_it}, or shorten the prompt template.",
        ),
        "double_bos": (
            f"{rows.capitalize()} hold the beginning of sequence {tokenizer.bos_token} once more than they should: "
            "the tokenizer writes it, and so does the text.",
            f"Take {tokenizer.bos_token} out of the template or the cells.",
        ),
        "end_untrained": (
            f"In {rows} the end of the answer, {tokenizer.eos_token}, is not learned: the model would not stop.",
            f"{raise_it}, so that answers are not cut off.",
        ),
        "placeholder": (
            f"{rows.capitalize()} hold {find_unfilled_placeholder(first.prompt, form) or find_unfilled_placeholder(first.completion, form)} as text: a "
            "placeholder that was not filled.",
            "Write a column with single braces in the template; or correct the cells.",
        ),
        "mask_wrong": (
            f"In {rows} the loss mask contradicts the setting 'Loss on completion only'.",
            "This is a fault of the toolkit, not of the data: please report it.",
        ),
        "boundary_merged": (
            f"In {rows} a token differs where the prompt ends, depending on whether the answer follows: asked later, "
            "the model sees other tokens than it was trained on.",
            "Close the chat template's opening of the answer, or switch it off." if form.chat else
            "End the prompt template with a line break, or with a character that no word continues.",
        ),
        "template_twice": (
            f"{rows.capitalize()} hold {find_template_mark(first, form)!r}, a mark of the chat template, in their own text, and "
            "the template is put around it once more.",
            "Switch the chat template off, or take its marks out of the templates and cells.",
        ),
    }[kind]  # fmt: skip
