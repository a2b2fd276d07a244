"""Find the hard stops (`data/examples/hard_stops.py`) in rows while they are prepared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from toolkit.data.examples.hard_stops import HARD_STOPS, MAX_HARD_STOP_ROWS, Fault
from toolkit.data.examples.templates import Example
from toolkit.worker.tokens.examples import TokenizedExample
from toolkit.worker.tokens.hard_stop_rules import HARD_STOP_RULES, CheckedRow, PromptFrame, describe_hard_stop
from toolkit.worker.tokens.labels import IGNORED_LABEL, make_collator

COLLATED_ROWS = 16
"""Rows of the first batch that go through the collator."""
_NO_TRAINED_TOKENS = (0, False, False)


class HardStopInspector:
    """Looks at every batch (`dataset.Inspect`) and counts. One for one preparation."""

    def __init__(
        self, form: PromptFrame, collate: Callable[[list[dict[str, Any]]], dict[str, Any]] | None = None
    ) -> None:
        self._form = form
        self._collate = collate or make_collator(form.tokenizer)
        self._found: dict[str, list[int]] = {kind: [] for kind in HARD_STOPS}
        self._first: dict[str, CheckedRow] = {}
        self._cut_ends: list[int] = []
        self._longest = self._rows = self._kept = 0

    def __call__(
        self,
        start: int,
        batch: Sequence[Example],
        tokens: Sequence[TokenizedExample],
        columns: pa.RecordBatch,
    ) -> None:
        if not self._rows:
            self._check_collated_batch(columns)
        self._rows += len(batch)
        self._kept += columns.num_rows
        left = _summarize_labels(columns, tokens, start, self._form)
        for at, (example, each) in enumerate(zip(batch, tokens, strict=True)):
            self._longest = max(self._longest, len(each.ids))
            trained, ends, wrong = left.get(at, _NO_TRAINED_TOKENS)
            seen = CheckedRow(
                example.prompt,
                example.completion,
                each.ids,
                len(each.prompt),
                each.completion_start,
                trained,
                ends,
                wrong,
            )
            self._apply_rules(start + at, seen)

    def _apply_rules(self, number: int, seen: CheckedRow) -> None:
        for kind, rule in HARD_STOP_RULES.items():
            if not rule(seen, self._form):
                continue
            # an answer cut off now and then is the length limit's to tell; where most are, nothing teaches to stop
            cut = kind == "end_untrained" and len(seen.ids) > self._form.length
            (self._cut_ends if cut else self._found[kind]).append(number)
            self._first.setdefault(kind, seen)

    def _check_collated_batch(self, columns: pa.RecordBatch) -> None:
        """Shortest and longest together, so that there is padding: what the collator makes of ends and masks."""
        order = np.argsort(columns.column("input_ids").value_lengths().to_numpy(), kind="stable")
        chosen = np.unique(np.concatenate([order[: COLLATED_ROWS // 2], order[-COLLATED_ROWS // 2 :]]))
        rows = columns.take(pa.array(chosen)).select(["input_ids", "labels"]).to_pylist()
        if not rows:
            return
        labels = self._collate(rows)["labels"].tolist()
        numbers = columns.column("row").take(pa.array(chosen)).to_pylist()
        end = self._form.tokenizer.eos_token_id
        for number, row, got in zip(numbers, rows, labels, strict=True):
            size = len(row["labels"])
            if got[:size] == row["labels"] and all(label == IGNORED_LABEL for label in got[size:]):
                continue
            hidden = end in row["labels"] and end not in got[:size]
            self._found["pad_hides_end" if hidden else "mask_wrong"].append(number)
            self._first.setdefault("mask_wrong", CheckedRow("", "", [], 0, 0, 0, False, True))

    def faults(self, rows: Sequence[int] | np.ndarray) -> list[Fault]:
        """What was found. rows: the table's row of each example."""
        if 2 * len(self._cut_ends) > self._kept:
            self._found["end_untrained"] += self._cut_ends
        return [self._fault(kind, sorted(set(at)), rows) for kind, at in self._found.items() if at]

    def _fault(self, kind: str, at: list[int], rows: Sequence[int] | np.ndarray) -> Fault:
        some = f"{len(at):,} of {self._rows:,} rows"
        if kind == "pad_hides_end":
            pad = self._form.tokenizer.pad_token
            message = f"Padding ({pad}) and the end of an answer are the same token, and the batch masks both."
            hint = "The model would never learn to stop: choose a model whose tokenizer has a padding token of its own."
        else:
            message, hint = describe_hard_stop(kind, some, self._first[kind], self._longest, self._form)
        return Fault(kind, message, hint, len(at), tuple(int(rows[number]) for number in at[:MAX_HARD_STOP_ROWS]))


def _summarize_labels(
    columns: pa.RecordBatch, tokens: Sequence[TokenizedExample], start: int, form: PromptFrame
) -> dict[int, tuple[Any, ...]]:
    """Example -> (tokens learned, whether the end is one of them, whether the mask is not the one that was asked for).

    Examples of which nothing is left are not in it.
    """
    if not columns.num_rows:
        return {}
    at = columns.column("row").to_numpy() - start
    ids, labels = (columns.column(name).flatten().to_numpy() for name in ("input_ids", "labels"))
    sizes = columns.column("labels").value_lengths().to_numpy()
    starts = np.cumsum(sizes) - sizes
    asked_for = np.full(len(labels), not form.completion_only)
    if form.completion_only:
        for example, start, size in zip(at.tolist(), starts.tolist(), sizes.tolist(), strict=True):
            for begin, end in tokens[example].learned:
                asked_for[start + min(begin, size) : start + min(end, size)] = True
    learned = labels != IGNORED_LABEL
    wrong = (learned != asked_for) | (learned & (labels != ids))
    first = np.zeros(len(labels), dtype=bool)
    first[starts] = True  # nothing stands before it to learn it from
    counts = [np.add.reduceat(flags, starts) for flags in (
        learned & ~first, learned & (labels == form.tokenizer.eos_token_id), wrong
    )]  # fmt: skip
    parts = (at, counts[0].astype(int), counts[1] > 0, counts[2] > 0)
    return {example: tuple(rest) for example, *rest in zip(*(part.tolist() for part in parts), strict=True)}
