"""Find blocking problems (`data/examples/hard_stops.py`) in rows while they are prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from toolkit.data.chat_messages import Message
from toolkit.data.examples.hard_stops import HARD_STOPS, MAX_HARD_STOP_ROWS, Fault
from toolkit.data.examples.templates import Example
from toolkit.system.printable import format_plural
from toolkit.worker.tokens.chat_outline import UNWRITTEN_PARTS, OutlineFacts, outline_conversation
from toolkit.worker.tokens.hard_stop_rules import HARD_STOP_RULES, CheckedRow, PromptFrame, describe_hard_stop
from toolkit.worker.tokens.labels import IGNORED_LABEL, PreparedBatch, make_collator
from toolkit.worker.tokens.rejected_rows import RejectedRows

COLLATED_ROWS = 16
"""Rows of the first batch that are collated: enough to see padding, and few enough to cost nothing."""
_NO_TRAINED_TOKENS = (0, False, False)


class HardStopInspector:
    """A `labels.BatchInspector` that collects the rows with problems. Use a new one for each preparation."""

    def __init__(
        self, frame: PromptFrame, collate: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None
    ) -> None:
        self._frame = frame
        self._collate = collate or make_collator(frame.tokenizer)
        self._found: dict[str, list[int]] = {kind: [] for kind in HARD_STOPS}
        self._first: dict[str, CheckedRow] = {}
        self._truncated_ends: list[int] = []
        self._facts: dict[tuple[Message, ...], OutlineFacts] = {}
        self._rejections = RejectedRows(frame.tokenizer)
        self._longest = self._rows = self._kept = 0

    def __call__(self, batch: PreparedBatch) -> None:
        if not self._kept:
            self._check_collated_batch(batch.columns)
        self._rows += batch.size
        self._kept += batch.columns.num_rows
        self._rejections.add(batch.rejected)
        left = _summarize_labels(batch, self._frame)
        for at, (number, example, each) in enumerate(
            zip(batch.numbers.tolist(), batch.examples, batch.tokens, strict=True)
        ):
            self._longest = max(self._longest, len(each.ids))
            trained, ends, wrong = left.get(at, _NO_TRAINED_TOKENS)
            facts = self._read_facts(example.turns)
            row = CheckedRow(
                example.prompt,
                example.completion,
                each.ids,
                len(each.prompt),
                each.completion_start,
                trained,
                ends,
                wrong,
                facts.written_bos,
                facts.unwritten,
            )
            self._apply_rules(number, row)

    def _read_facts(self, turns: Sequence[Message]) -> OutlineFacts:
        """Return what the chat template makes of an example, once for all conversations of one outline."""
        if not turns:
            return OutlineFacts(self._frame.bos)
        outline = outline_conversation(turns)
        if outline not in self._facts:
            self._facts[outline] = self._frame.read_outline(outline)
        return self._facts[outline]

    def _apply_rules(self, number: int, row: CheckedRow) -> None:
        for kind, rule in HARD_STOP_RULES.items():
            if not rule(row, self._frame):
                continue
            # a few truncated answers get a warning; if most are truncated, the model does not learn to stop
            truncated = kind == "end_untrained" and len(row.ids) > self._frame.length
            (self._truncated_ends if truncated else self._found[kind]).append(number)
            self._first.setdefault(kind, row)

    def _check_collated_batch(self, columns: pa.RecordBatch) -> None:
        """Check that the collator keeps the labels; short and long rows together make it add padding."""
        order = np.argsort(columns.column("input_ids").value_lengths().to_numpy(), kind="stable")
        chosen = np.unique(np.concatenate([order[: COLLATED_ROWS // 2], order[-COLLATED_ROWS // 2 :]]))
        rows = columns.take(pa.array(chosen)).select(["input_ids", "labels"]).to_pylist()
        if not rows:
            return
        labels = self._collate(rows)["labels"].tolist()
        numbers = columns.column("row").take(pa.array(chosen)).to_pylist()
        end = self._frame.tokenizer.eos_token_id
        for number, row, got in zip(numbers, rows, labels, strict=True):
            size = len(row["labels"])
            if got[:size] == row["labels"] and all(label == IGNORED_LABEL for label in got[size:]):
                continue
            hidden = end in row["labels"] and end not in got[:size]
            self._found["pad_hides_end" if hidden else "mask_wrong"].append(number)
            self._first.setdefault("mask_wrong", CheckedRow("", "", [], 0, 0, 0, False, True, 0))

    def check_outlines(self, start: int, examples: Iterable[Example]) -> None:
        """Look for conversations that the template rejects among examples that are not prepared.

        start: the position of the first one, after all prepared ones.
        """
        for number, example in enumerate(examples, start):
            self._rejections.check_outline(number, example)
            self._rows += 1

    def faults(self, rows: Sequence[int] | np.ndarray) -> list[Fault]:
        """Return the problems found. rows: the row number in the table of each example."""
        if 2 * len(self._truncated_ends) > self._kept:
            self._found["end_untrained"] += self._truncated_ends
        found = [self._fault(kind, sorted(set(at)), rows) for kind, at in self._found.items() if at]
        return [*self._rejections.faults(rows, self._rows), *found]

    def _fault(self, kind: str, at: list[int], rows: Sequence[int] | np.ndarray) -> Fault:
        affected = f"{len(at):,} of {format_plural(self._rows, 'row')}"
        if kind == "pad_hides_end":
            pad = self._frame.tokenizer.pad_token
            message = f"Padding and the end of an answer are the same token ({pad}), and the collator masks both."
            hint = "The model would not learn to stop. Choose a model whose tokenizer has a separate padding token."
        elif kind in UNWRITTEN_PARTS:
            message = f"This model's chat template writes no {UNWRITTEN_PARTS[kind]}, which {affected} have."
            hint = "Choose a model whose chat template writes it, or the model is trained on these rows without it."
        else:
            message, hint = describe_hard_stop(kind, affected, self._first[kind], self._longest, self._frame)
        return Fault(kind, message, hint, len(at), tuple(int(rows[number]) for number in at[:MAX_HARD_STOP_ROWS]))


def _summarize_labels(batch: PreparedBatch, frame: PromptFrame) -> dict[int, tuple[Any, ...]]:
    """Return {sequence: (number of trained tokens, whether EOS is trained, whether the mask contradicts the settings)}.

    Skipped sequences, which have no trained token, are missing.
    """
    columns, at = batch.columns, batch.kept
    if not columns.num_rows:
        return {}
    ids, labels = (columns.column(name).flatten().to_numpy() for name in ("input_ids", "labels"))
    sizes = columns.column("labels").value_lengths().to_numpy()
    starts = np.cumsum(sizes) - sizes
    expected = np.full(len(labels), not frame.completion_only)
    if frame.completion_only:
        for sequence, start, size in zip(at.tolist(), starts.tolist(), sizes.tolist(), strict=True):
            for begin, end in batch.tokens[sequence].learned:
                expected[start + min(begin, size) : start + min(end, size)] = True
    trained = labels != IGNORED_LABEL
    wrong = (trained != expected) | (trained & (labels != ids))
    first = np.zeros(len(labels), dtype=bool)
    first[starts] = True  # the first token has no context, so no loss is computed for it
    trained_counts = np.add.reduceat(trained & ~first, starts).astype(int)
    end_counts = np.add.reduceat(trained & (labels == frame.tokenizer.eos_token_id), starts)
    wrong_counts = np.add.reduceat(wrong, starts)
    columns_of_summary = (at, trained_counts, end_counts > 0, wrong_counts > 0)
    return {
        sequence: tuple(summary)
        for sequence, *summary in zip(*(column.tolist() for column in columns_of_summary), strict=True)
    }
