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
from toolkit.worker.questions.dataset_subject import Subject, open_subject
from toolkit.worker.questions.desk import Job
from toolkit.worker.tokens.examples import PromptAndCompletion
from toolkit.worker.tokens.hard_stop_rules import Form
from toolkit.worker.tokens.hard_stop_search import Inspector
from toolkit.worker.tokens.labels import prepare_batches

SAMPLE = 20_000
KEPT = 32
_KEPT: dict[str, dict[str, Any]] = {}


def form_of(subject: Subject) -> Form:
    only = subject.config.training.sft_args.completion_only_loss
    return Form.of(subject.tokenizer, subject.chat, subject.length, only, subject.table.columns)


def answer(body: Mapping[str, Any], job: Job) -> dict[str, Any]:
    """See the module. Raises ToolkitError for settings, table or model that can't be used."""
    subject = open_subject(body, job.tell)
    data, sft = subject.config.data, subject.config.training.sft_args
    # the file's name says how its bytes were read: otherwise read they are other rows
    table = subject.table
    key = json.dumps([table.sha256, table.path.name, table.rows, data.prompt, data.prompt_stub, data.messages,
                      subject.chat, subject.length, sft.completion_only_loss, subject.identity])  # fmt: skip
    if key not in _KEPT:
        _KEPT[key] = _look(subject, job)
        while len(_KEPT) > KEPT:
            del _KEPT[next(iter(_KEPT))]
    return _KEPT[key]


def _look(subject: Subject, job: Job) -> dict[str, Any]:
    usable = usable_indices(subject.table, subject.renderer.columns_needed)
    rows = usable
    if len(usable) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(usable, SAMPLE, replace=False))
    inspector = Inspector(form_of(subject))
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


def _examples(subject: Subject, rows: np.ndarray) -> Iterator[PromptAndCompletion]:
    renderer = subject.renderer
    for part in subject.table.scan(rows, renderer.columns_needed):
        cells = {name: part.column(name).to_pylist() for name in part.column_names}
        yield from renderer.examples(cells, part.num_rows)
