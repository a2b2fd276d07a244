"""Answer the question "faults" of the background worker: find blocking problems in the rows of a dataset.

body: {"config": ..., "table": path} as in `dataset_subject.py`. value: {"faults": [...], "checked": number of rows,
"usable": number of rows}. If more than HARD_STOP_SAMPLE_ROWS rows are usable, a random sample of that size is checked,
the same sample for the same table. Of conversations, all rows are compared with the chat template by their roles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from toolkit.data.examples.split import usable_indices
from toolkit.data.examples.templates import Example
from toolkit.worker.questions.dataset_subject import TokenizedDataset, open_tokenized_dataset
from toolkit.worker.questions.question_job import QuestionJob
from toolkit.worker.tokens.hard_stop_rules import PromptFrame
from toolkit.worker.tokens.hard_stop_search import HardStopInspector
from toolkit.worker.tokens.labels import prepare_batches

HARD_STOP_SAMPLE_ROWS = 20_000
"""Rows; a problem in 0.1 % of the rows is in such a sample almost certainly, and checking takes seconds."""
OUTLINES_PER_STEP = 20_000
"""Conversations outside the sample that are compared with the chat template between two reports of the progress."""
MAX_CACHED_HARD_STOPS = 32
"""Answers: a user switches between a few templates and settings."""
_CACHED_HARD_STOPS: dict[str, dict[str, Any]] = {}


def make_prompt_frame(subject: TokenizedDataset) -> PromptFrame:
    """Return what is the same for all rows of the dataset."""
    only = subject.config.training.sft_args.completion_only_loss
    return PromptFrame.of(subject.tokenizer, subject.chat, subject.length, only, subject.table.columns)


def answer_hard_stops(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    """Return the value described in the module docstring.

    Raises ToolkitError: the settings, the table or the model can't be used.
    """
    subject = open_tokenized_dataset(body, job.report_progress)
    data, sft = subject.config.data, subject.config.training.sft_args
    table = subject.table
    inputs = [
        table.sha256,
        table.path.name,  # it names the reading options: with others, the same bytes are other rows
        table.rows,
        data.prompt,
        data.prompt_stub,
        data.messages,
        data.optional_columns,
        subject.chat,
        subject.length,
        sft.completion_only_loss,
        subject.identity,
    ]
    key = json.dumps(inputs)
    if key not in _CACHED_HARD_STOPS:
        _CACHED_HARD_STOPS[key] = _find_hard_stops(subject, job)
        while len(_CACHED_HARD_STOPS) > MAX_CACHED_HARD_STOPS:
            del _CACHED_HARD_STOPS[next(iter(_CACHED_HARD_STOPS))]
    return _CACHED_HARD_STOPS[key]


def _find_hard_stops(subject: TokenizedDataset, job: QuestionJob) -> dict[str, Any]:
    usable = usable_indices(subject.table, subject.renderer.columns_required)
    rows = usable
    if len(usable) > HARD_STOP_SAMPLE_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(usable, HARD_STOP_SAMPLE_ROWS, replace=False))
    inspector = HardStopInspector(make_prompt_frame(subject))
    lost: list[int] = []
    done = 0
    for batch in prepare_batches(
        _examples(subject, rows),
        subject.tokenizer,
        subject.length,
        subject.chat,
        lost,
        completion_only=subject.config.training.sft_args.completion_only_loss,
        inspect=inspector,
    ):
        done += batch.num_rows
        job.report_progress("checking rows", done + len(lost), len(rows))
    others = np.setdiff1d(usable, rows) if subject.config.data.messages else usable[:0]
    for start in range(0, len(others), OUTLINES_PER_STEP):
        job.report_progress("comparing conversations with the chat template", start, len(others))
        part = others[start : start + OUTLINES_PER_STEP]
        inspector.check_outlines(len(rows) + start, _examples(subject, part))
    faults = [asdict(fault) for fault in inspector.faults(np.concatenate([rows, others]))]
    return {"faults": faults, "checked": len(rows), "usable": len(usable)}


def _examples(subject: TokenizedDataset, rows: np.ndarray) -> Iterator[Example]:
    renderer = subject.renderer
    for part in subject.table.scan(rows, renderer.columns_needed):
        cells = {name: part.column(name).to_pylist() for name in part.column_names}
        yield from renderer.examples(cells, part.num_rows)
