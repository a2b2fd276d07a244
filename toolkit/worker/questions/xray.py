"""Answer the question "xray" of the background worker: one row as the trainer sees it, token by token.

body: {"config": ..., "table": path} as in `dataset_subject.py`, and "row": the 0-based row number in the table.
value: {"usable": false} if a cell that the templates use is empty, otherwise the value of `describe_example`. The ids
and labels come from the preparation and the collator of training; truncated tokens follow them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from toolkit.data.examples.templates import Example
from toolkit.worker.questions.dataset_subject import TokenizedDataset, open_tokenized_dataset
from toolkit.worker.serving.text_stream import REPLACEMENT_CHARACTER
from toolkit.worker.tokens.examples import tokenize_examples
from toolkit.worker.tokens.labels import IGNORED_LABEL, make_collator, prepare_examples

if TYPE_CHECKING:
    from toolkit.worker.questions.question_job import QuestionJob

SHOWN_ROW_TOKENS = 4_000
"""Tokens of a row that are sent to the browser; of a longer row, only the parts around its boundaries are sent."""
STATE_MASKED, STATE_TRAINED, STATE_TRUNCATED = "m", "t", "c"

MAX_TOKENS_PER_CHARACTER = 6
"""Tokens of one character: up to 4 bytes of UTF-8, and some tokenizers add a prefix."""


def answer_token_view(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    """Return the value described in the module docstring.

    Raises ToolkitError: the settings, the table or the model can't be used.
    """
    subject = open_tokenized_dataset(body, job.report_progress)
    renderer = subject.renderer
    (cells,) = subject.table.take([int(body["row"])], renderer.columns_needed)
    if not renderer.usable(cells):
        return {"usable": False}
    return describe_example(renderer.example(cells), subject)


def describe_example(example: Example, subject: TokenizedDataset) -> dict[str, Any]:
    """Return what the trainer makes of one example.

    total, kept, trained: numbers of tokens. begins: position of the first completion token. merged: whether the last
    token of the prompt changes because the completion follows. answers: positions of the later answers of a
    conversation. length: the limit in tokens. chat: whether the chat template is used. left_out: whether the row is
    skipped. rewritten: number of earlier answers that are trained in sequences of their own. parts: [{"from": position,
    "tokens": [[id, text, name, state, special], ...]}, ...], the row without its omitted parts.
    """
    tokenizer = subject.tokenizer
    (tokens,) = tokenize_examples([example], tokenizer, subject.chat)
    ids, labels = collate_example(example, subject)
    states = _token_states(labels, len(tokens.ids))
    assert ids == tokens.ids[: len(ids)], "the collated ids differ from the tokens of the row"
    return {
        "usable": True,
        "total": len(tokens.ids),
        "kept": min(len(tokens.ids), subject.length),
        "trained": states.count(STATE_TRAINED),
        "begins": tokens.completion_start,
        "answers": [begin for begin, _ in tokens.learned[1:]],
        "merged": tokens.merged_at_boundary,
        "length": subject.length,
        "chat": subject.chat,
        "left_out": not ids,
        "rewritten": sum(len(sequence.learned) for sequence in tokens.earlier),
        "parts": list(
            _token_parts(
                tokens.ids, states or _untrained_states(tokens.ids, subject.length), tokens.completion_start, subject
            )
        ),
    }


def collate_example(example: Example, subject: TokenizedDataset) -> tuple[list[int], list[int]]:
    """Return (ids, labels) of the example, collated alone; both are empty if the example is skipped."""
    only = subject.config.training.sft_args.completion_only_loss
    (tokens,) = tokenize_examples([example], subject.tokenizer, subject.chat)
    prepared = prepare_examples([example], subject.tokenizer, subject.length, subject.chat, completion_only=only).table
    # earlier answers may have sequences of their own: the last one is the whole example
    sequences = prepared.select(["input_ids", "labels"]).to_pylist()
    whole = [one for one in sequences if one["input_ids"] == tokens.ids[: subject.length]][-1:]
    if not whole:
        return [], []
    batch = make_collator(subject.tokenizer)(whole)
    return batch["input_ids"][0].tolist(), batch["labels"][0].tolist()


def _token_states(labels: Sequence[int], total: int) -> str:
    """Return one letter for each token. The first token is never trained: no token before it predicts it."""
    if not labels:
        return ""
    kept = "".join(
        STATE_MASKED if label == IGNORED_LABEL or at == 0 else STATE_TRAINED for at, label in enumerate(labels)
    )
    return kept + STATE_TRUNCATED * (total - len(labels))


def _untrained_states(ids: Sequence[int], length: int) -> str:
    return STATE_MASKED * min(len(ids), length) + STATE_TRUNCATED * max(0, len(ids) - length)


def _token_parts(ids: list[int], states: str, begins: int, subject: TokenizedDataset) -> Iterator[dict[str, Any]]:
    special = set(subject.tokenizer.all_special_ids)
    for start, stop in _windows(len(ids), (begins, subject.length)):
        part = ids[start:stop]
        names = subject.tokenizer.convert_ids_to_tokens(part)
        texts = _token_texts(part, names, subject.tokenizer)
        rows = zip(part, texts, names, states[start:stop], strict=True)
        yield {"from": start, "tokens": [[i, text, name, state, int(i in special)] for i, text, name, state in rows]}


def _windows(total: int, marks: Sequence[int]) -> list[tuple[int, int]]:
    """Return the ranges to show, in order and disjoint: the whole row, or its start, its end and around the marks."""
    if total <= SHOWN_ROW_TOKENS:
        return [(0, total)]
    half = SHOWN_ROW_TOKENS // 8
    wanted = [(0, 2 * half), *((mark - half, mark + half) for mark in marks), (total - 2 * half, total)]
    windows: list[tuple[int, int]] = []
    for start, stop in sorted((max(0, a), min(total, b)) for a, b in wanted if a < total):
        if windows and start <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(windows[-1][1], stop))
        else:
            windows.append((start, stop))
    return windows


def _token_texts(ids: Sequence[int], names: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the text of each token. A character of several tokens is at the first one; the others are empty."""
    texts: list[str] = []
    while len(texts) < len(ids):
        at = len(texts)
        for size in range(1, MAX_TOKENS_PER_CHARACTER + 1):
            text = _decode(ids[at : at + size], tokenizer)
            if REPLACEMENT_CHARACTER not in text:
                break
        else:
            size, text = 1, names[at]
        # some tokenizers drop the space at the start of a text
        space = " " if names[at].startswith("▁") and not text.startswith(" ") else ""
        texts += [space + text, *[""] * (size - 1)][: len(ids) - at]
    return texts


def _decode(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
