"""Answer the question "lengths" of the background worker: the number of tokens of every row of a table.

body: {"config": ..., "table": path} as in `dataset_subject.py`. value: {"path": file, "rows": number of rows}. The
file is a NumPy array, int32, (rows of the table, 2): tokens of the prompt, and of the completion with its end token,
before truncation; both are -1 where a cell that the templates use is empty. `toolkit.data.doctor.token_lengths` reads
it. Files are cached by content: the same table, templates and tokenizer are counted once, whatever max_seq_length is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.examples.split import usable_indices
from toolkit.services.warm_process import WARM_SERVICE
from toolkit.system.durable import durable_write
from toolkit.worker.questions.dataset_subject import TokenizedDataset, open_tokenized_dataset
from toolkit.worker.tokens.examples import tokenize_examples

if TYPE_CHECKING:
    from toolkit.worker.questions.question_job import QuestionJob

COUNTED_EXAMPLES_PER_BATCH = 1000
"""Examples between two progress reports, which also end a canceled job: a fraction of a second."""
KEPT_LENGTH_FILES = 30
"""Cached files; the least recently used ones are deleted. A file has 8 bytes per row."""


def answer_lengths(body: Mapping[str, Any], job: QuestionJob) -> dict[str, Any]:
    """Return the value described in the module docstring.

    Raises ToolkitError: the settings, the table or the model can't be used.
    """
    subject = open_tokenized_dataset(body, job.report_progress)
    folder = WARM_SERVICE.folder(Path(os.environ["FTK_SAVE_DIR"])) / "lengths"
    file = folder / f"{_lengths_key(subject)}.npy"
    if _is_complete(file, subject.table.rows):
        os.utime(file)  # marks the file as recently used
    else:
        counted = _count_tokens(subject, job)
        folder.mkdir(parents=True, exist_ok=True)
        raw = io.BytesIO()
        np.save(raw, counted, allow_pickle=False)
        durable_write(file, raw.getvalue())
        _delete_old_files(folder)
    return {"path": str(file), "rows": subject.table.rows}


def _count_tokens(subject: TokenizedDataset, job: QuestionJob) -> np.ndarray[Any, np.dtype[np.int32]]:
    renderer = subject.renderer
    usable = usable_indices(subject.table, renderer.columns_required)
    lengths = np.full((subject.table.rows, 2), -1, dtype=np.int32)
    done = 0
    for part in subject.table.scan(usable, renderer.columns_needed):
        cells = {name: part.column(name).to_pylist() for name in part.column_names}
        examples = renderer.examples(cells, part.num_rows)
        while batch := list(islice(examples, COUNTED_EXAMPLES_PER_BATCH)):
            job.report_progress("counting tokens", done, len(usable))
            tokens = tokenize_examples(batch, subject.tokenizer, subject.chat)
            counts = [(each.completion_start, len(each.ids) - each.completion_start) for each in tokens]
            lengths[usable[done : done + len(batch)]] = counts
            done += len(batch)
    return lengths


def _is_complete(file: Path, rows: int) -> bool:
    try:
        return bool(np.load(file, mmap_mode="r", allow_pickle=False).shape == (rows, 2))
    except (OSError, ValueError):
        return False


def _lengths_key(subject: TokenizedDataset) -> str:
    data = subject.config.data
    content = [
        subject.table.sha256,
        subject.table.path.name,  # it names the reading options: with others, the same bytes are other rows
        subject.table.rows,
        data.prompt,
        data.prompt_stub,
        data.messages,
        data.optional_columns,
        subject.chat,
        subject.identity,
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]


def _delete_old_files(folder: Path) -> None:
    newest_first = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in newest_first[KEPT_LENGTH_FILES:]:
        file.unlink(missing_ok=True)
