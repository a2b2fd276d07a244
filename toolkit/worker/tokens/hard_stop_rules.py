"""Rules that find blocking problems in prepared rows, one function per kind, and the message of each kind.

The name of a rule is the key of its kind in settings and files; keys and texts are in
`data/examples/hard_stops.py` and `describe_hard_stop`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from toolkit.data.chat_messages import Message
from toolkit.data.examples.templates import Example
from toolkit.worker.models.load import vocabulary_size_of
from toolkit.worker.tokens import chat_outline
from toolkit.worker.tokens.chat_outline import UNWRITTEN_PARTS, OutlineFacts, count_intended_bos, read_outline
from toolkit.worker.tokens.examples import tokenize_examples

_BRACES = re.compile(r"\{\s*([^{}\n]{1,100}?)\s*\}")


@dataclass(frozen=True)
class PromptFrame:
    """What is the same for every row of a dataset.

    length: limit in tokens. columns: names in lower case. bos: number of BOS tokens that the tokenizer and the template
    add to a prompt with its completion. marks: texts that only the chat template writes. embedded: number of ids that
    the model has embeddings for, None if it is not known. dropped: what the chat template leaves out of every example,
    "" for nothing.
    """

    tokenizer: PreTrainedTokenizerBase
    chat: bool
    length: int
    completion_only: bool
    columns: frozenset[str]
    bos: int
    marks: tuple[str, ...]
    embedded: int | None = None
    dropped: str = ""

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, chat: bool, length: int, completion_only: bool, columns: Sequence[str]
    ) -> PromptFrame:
        """Measure the frame on a minimal example."""
        (plain,) = tokenize_examples([Example("x", "y")], tokenizer, chat)
        bos = count_intended_bos(tokenizer, plain.ids)
        names = frozenset(column.strip().casefold() for column in columns)
        marks = chat_outline.read_template_marks(tokenizer) if chat else ()
        dropped = chat_outline.find_dropped_text(tokenizer) if chat else ""
        return cls(tokenizer, chat, length, completion_only, names, bos, marks, vocabulary_size_of(tokenizer), dropped)

    def read_outline(self, outline: Sequence[Message]) -> OutlineFacts:
        """Return what the chat template makes of conversations of this outline.

        Many templates write a BOS for each message or each question: it is the marker that opens a turn.
        """
        return read_outline(self.tokenizer, outline) or OutlineFacts(self.bos)


class CheckedRow(NamedTuple):
    """One row with its texts, its tokens before truncation, and its labels in short.

    asked: number of tokens of the prompt alone. begins: position of the first completion token. trained: number of
    trained tokens. ends: whether EOS is trained. mask_wrong: whether the labels contradict the settings. written_bos:
    number of BOS tokens that the tokenizer and the template add to the texts. unwritten: kinds of UNWRITTEN_PARTS.
    """

    prompt: str
    completion: str
    ids: Sequence[int]
    asked: int
    begins: int
    trained: int
    ends: bool
    mask_wrong: bool
    written_bos: int
    unwritten: tuple[str, ...] = ()


def text_dropped(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether the chat template leaves out the question or the answer."""
    return bool(frame.dropped)


def prompt_too_long(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether the prompt alone exceeds the limit."""
    return row.begins > frame.length


def nothing_trained(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether no trained token is left, although the prompt fits."""
    return not row.trained and not prompt_too_long(row, frame)


def double_bos(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether the row has more BOS tokens than tokenizer and template add."""
    bos = frame.tokenizer.bos_token_id
    return bos is not None and bos != frame.tokenizer.eos_token_id and list(row.ids).count(bos) > row.written_bos


def end_untrained(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether the row has trained tokens, but EOS is not one of them."""
    return bool(row.trained) and not row.ends


def unknown_id(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether the row, or the padding next to it, has a token that the model has no embedding for."""
    return find_unknown_id(row, frame) is not None


def find_unknown_id(row: CheckedRow, frame: PromptFrame) -> int | None:
    """Return the id without an embedding, or None if there is none."""
    largest = max(max(row.ids, default=0), frame.tokenizer.pad_token_id or 0)
    return largest if frame.embedded is not None and largest >= frame.embedded else None


def placeholder(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether a {column} is left in the rendered texts."""
    return bool(find_unfilled_placeholder(row.prompt, frame) or find_unfilled_placeholder(row.completion, frame))


def find_unfilled_placeholder(text: str, frame: PromptFrame) -> str:
    """Return the first {column} that is left in a rendered text, or "" if there is none."""
    if "{" not in text:
        return ""
    hits = (match for match in _BRACES.finditer(text) if match.group(1).casefold() in frame.columns)
    return next((match.group() for match in hits), "")


def mask_wrong(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether the labels contradict the settings."""
    return row.mask_wrong


def boundary_merged(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether a token of the prompt changes because the completion follows."""
    return row.begins < row.asked


def template_twice(row: CheckedRow, frame: PromptFrame) -> bool:
    """Return whether the texts of the row contain markers of the chat template."""
    return bool(find_template_mark(row, frame))


def find_template_mark(row: CheckedRow, frame: PromptFrame) -> str:
    """Return the first marker of the chat template that the texts of a row contain, or "" if there is none."""
    return next((mark for mark in frame.marks if mark in row.prompt or mark in row.completion), "")


HardStopRule = Callable[[CheckedRow, PromptFrame], bool]
_RULES: tuple[HardStopRule, ...] = (
    text_dropped,
    prompt_too_long,
    nothing_trained,
    double_bos,
    end_untrained,
    unknown_id,
    placeholder,
    mask_wrong,
    boundary_merged,
    template_twice,
)
HARD_STOP_RULES: dict[str, HardStopRule] = {
    **{rule.__name__: rule for rule in _RULES},
    **{kind: lambda row, frame, kind=kind: kind in row.unwritten for kind in UNWRITTEN_PARTS},  # type: ignore[misc]
}
"""Kind -> rule; the kinds are stored in settings and files, so a rule can't be renamed."""


_BOUNDARY_HINTS = {
    True: "Complete the chat template's opening of the answer, or turn the chat template off.",
    False: "End the prompt template with a line break, or change it so that the answer starts a new token.",
}
"""Whether the chat template is used -> next step for a token that spans prompt and completion."""


def _describe_unknown_id(rows: str, first: CheckedRow, frame: PromptFrame) -> tuple[str, str]:
    number = find_unknown_id(first, frame) or 0
    token = f"{frame.tokenizer.convert_ids_to_tokens(number)!r} (id {number:,})"
    return (
        f"{rows.capitalize()} need the token {token}, but the model has embeddings for {frame.embedded:,} ids only.",
        "Tokens were added to the tokenizer alone. Choose a model whose embedding matrix was enlarged with it.",
    )


def _describe_dropped_text(rows: str, first: CheckedRow, frame: PromptFrame) -> tuple[str, str]:
    return (
        f"The model's chat template leaves out the {frame.dropped} of {rows}: in training they would all be alike.",
        "Turn the chat template off, or choose a model whose template writes the text of a message.",
    )


_MODEL_FAULTS = {"unknown_id": _describe_unknown_id, "text_dropped": _describe_dropped_text}  # whatever the rows are


def describe_hard_stop(kind: str, rows: str, first: CheckedRow, longest: int, frame: PromptFrame) -> tuple[str, str]:
    """Return (message, hint) for one kind.

    rows: for example "3 of 500 rows". first: the first affected row. longest: tokens of the longest row.
    """
    bos, eos, length = frame.tokenizer.bos_token, frame.tokenizer.eos_token, f"{frame.length:,}"
    if kind in _MODEL_FAULTS:
        return _MODEL_FAULTS[kind](rows, first, frame)
    left = find_unfilled_placeholder(first.prompt, frame) or find_unfilled_placeholder(first.completion, frame)
    raise_limit = f"Raise max_seq_length (the longest example has {longest:,} tokens)"
    messages = {
        "prompt_too_long": (
            f"In {rows} the prompt alone is longer than max_seq_length ({length} tokens), so no token of the "
            "answer is trained.",
            f"{raise_limit}, or shorten the prompt template.",
        ),
        "nothing_trained": (
            f"In {rows} no token within max_seq_length ({length} tokens) is trained.",
            f"{raise_limit}, or shorten the prompt template.",
        ),
        "double_bos": (
            f"In {rows} the beginning-of-sequence token {bos} occurs too often: the tokenizer or the chat template "
            "adds it, and the text contains it too.",
            f"Remove {bos} from the templates or the cells.",
        ),
        "end_untrained": (
            f"In {rows} the end of the answer ({eos}) is not trained, so the model would not learn to stop.",
            f"{raise_limit}, so that answers are not truncated.",
        ),
        "placeholder": (
            f"In {rows} the text contains {left}, a placeholder that was not filled.",
            "Write the column in single braces in the template, or correct the cells.",
        ),
        "mask_wrong": (
            f"In {rows} the loss mask contradicts the setting 'Loss on completion only'.",
            "This is a bug in the toolkit, not in your data. Please report it.",
        ),
        "boundary_merged": (
            f"In {rows} the last token of the prompt changes when the answer follows it. In use, the model "
            "would see different tokens than in training.",
            _BOUNDARY_HINTS[frame.chat],
        ),
        "template_twice": (
            f"In {rows} the text contains {find_template_mark(first, frame)!r}, a marker of the chat template, which "
            "is then applied again.",
            "Turn the chat template off, or remove its markers from the templates and cells.",
        ),
    }
    return messages[kind]
