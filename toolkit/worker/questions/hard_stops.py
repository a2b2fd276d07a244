"""The background worker's question "faults": search all rows of a dataset for hard stops.

body: {"config": ..., "table": path} as in `subject.py`. value: {"faults": [...], "checked", "usable": numbers of rows}.
Of more than SAMPLE usable rows a random sample is checked, the same one for the same table.
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
from toolkit.worker.questions.desk import QuestionJob
from toolkit.worker.tokens.hard_stop_rules import PromptFrame
from toolkit.worker.tokens.hard_stop_search import HardStopInspector
from toolkit.worker.tokens.labels import prepare_batches

HARD_STOP_SAMPLE_ROWS = 20_000
MAX_CACHED_HARD_STOPS = 32
_CACHED_HARD_STOPS: dict[str, dict[str, Any]] = {}


def make_prompt_frame(subject: TokenizedDataset) -> PromptFrame:
    only = subject.config.training.sft_args.completion_only_loss
    return PromptFrame.of(subject.tokenizer, subject.chat, subject.length, only, subject.table.columns)


def answer_hard_stops(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    """See the module. Raises ToolkitError for settings, table or model that can't be used."""
    subject = open_tokenized_dataset(body, job.tell)
    data, sft = subject.config.data, subject.config.training.sft_args
    # the file's name says how its bytes were read: otherwise read they are other rows
    table = subject.table
    key = json.dumps([table.sha256, table.path.name, table.rows, data.prompt, data.prompt_stub, data.messages,
                      subject.chat, subject.length, sft.completion_only_loss, subject.identity])  # fmt: skip
    if key not in _CACHED_HARD_STOPS:
        _CACHED_HARD_STOPS[key] = _find_hard_stops(subject, job)
        while len(_CACHED_HARD_STOPS) > MAX_CACHED_HARD_STOPS:
            del _CACHED_HARD_STOPS[next(iter(_CACHED_HARD_STOPS))]
    return _CACHED_HARD_STOPS[key]


def _find_hard_stops(subject: TokenizedDataset, job: QuestionJob) -> dict[str, Any]:
    usable = usable_indices(subject.table, subject.renderer.columns_needed)
    rows = usable
    if len(usable) > HARD_STOP_SAMPLE_ROWS:
        rows = np.sort(np.random.default_rng(0).choice(usable, HARD_STOP_SAMPLE_ROWS, replace=False))
    inspector = HardStopInspector(make_prompt_frame(subject))
    lost: list[int] = []
    done = 0
    for batch in prepare_batches(
        _examples(subject, rows), subject.tokenizer, subject.length, subject.chat, lost,
        completion_only=subject.config.training.sft_args.completion_only_loss, inspect=inspector,
    ):  # fmt: skip
        done += batch.num_rows
        job.tell("checking rows", done + len(lost), len(rows))
    faults = [asdict(fault) for fault in inspector.faults(rows)]
    return {"faults": faults, "checked": len(rows), "usable": len(usable)}


def _examples(subject: TokenizedDataset, rows: np.ndarray) -> Iterator[Example]:
    renderer = subject.renderer
    for part in subject.table.scan(rows, renderer.columns_needed):
        cells = {name: part.column(name).to_pylist() for name in part.column_names}
        yield from renderer.examples(cells, part.num_rows)
