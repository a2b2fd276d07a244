"""A run's rows, ready for the trainer: the run's own table is split, rendered and tokenised once, and kept on disk.

data/train.arrow and data/test.arrow hold `row` (0-based in the run's table), `input_ids`, `labels` and `truncated`.
With several processes the first one writes and the others read. Knows no model and no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.prompt import Example, Renderer, make_renderer
from toolkit.data.split import SplitPlan, plan_split
from toolkit.data.table import Table, load_table
from toolkit.errors import ToolkitError
from toolkit.runs.rundir import RunDir
from toolkit.worker.dataset import Prepared, chat_enabled, prepare

Tell = Callable[..., None]


@dataclass(frozen=True)
class Source:
    """The run's table with the decision on each of its rows and the way to render one."""

    table: Table
    plan: SplitPlan
    renderer: Renderer

    def examples(self, rows: np.ndarray) -> Iterator[Example]:
        """Prompt and completion of these rows of the table, in this order."""
        for cells in self.table.take(rows, self.renderer.columns_needed):
            yield self.renderer.example(cells)


def open_source(run: RunDir, config: Config) -> Source:
    """Raises DataError: no table, templates that don't fit it, sizes that don't."""
    table = load_table(run.source_path)
    renderer = make_renderer(config.data.prompt, config.data.prompt_stub, table.columns)
    return Source(table, plan_split(table, config.data), renderer)


def write_splits(
    run: RunDir, config: Config, source: Source, tokenizer: PreTrainedTokenizerBase, length: int, tell: Tell
) -> None:
    """Prepare both parts, write them and tell what was found. Raises ToolkitError when nothing is left to train on."""
    chat = chat_enabled(config, tokenizer)
    plan = source.plan
    train = prepare(source.examples(plan.train), tokenizer, length, chat)
    test = prepare(source.examples(plan.test), tokenizer, length, chat)
    tell(
        "prepared",
        train_rows=train.rows,
        test_rows=test.rows,
        dropped=len(plan.dropped),
        cut_away=len(train.lost) + len(test.lost),
        truncated_rows=train.truncated_rows + test.truncated_rows,
        train_tokens=train.tokens,
        trained_tokens=train.trained_tokens,
        longest=max(train.longest, test.longest),
        max_length=length,
        chat=chat,
    )
    for message in _warnings(train, test, len(plan.dropped), length):
        tell("warning", message=message)
    if not train.rows:
        message = f"No row has a completion left within {length} tokens: nothing could be learned."
        raise ToolkitError(message, "Raise max_seq_length, or shorten the prompt.")
    _write(train.table, plan.train, run.data_dir / "train.arrow")
    # like lengths together: less padding in every evaluation
    _write(test.table.take(pa.array(np.argsort(test.lengths, kind="stable"))), plan.test, run.data_dir / "test.arrow")


def read_splits(run: RunDir) -> tuple[Dataset, Dataset]:
    """(train, test), memory-mapped."""
    return Dataset.from_file(str(run.data_dir / "train.arrow")), Dataset.from_file(str(run.data_dir / "test.arrow"))


def _warnings(train: Prepared, test: Prepared, dropped: int, length: int) -> Iterator[str]:
    cut = train.truncated_rows + test.truncated_rows
    lost = len(train.lost) + len(test.lost)
    if cut:
        yield f"{cut:,} rows are longer than {length} tokens and were cut at the end: raise max_seq_length to keep it."
    if lost:
        yield f"Of these, {lost:,} rows lost their whole completion and are left out: nothing in them could be learned."
    if dropped:
        yield f"{dropped:,} rows lack a cell that the templates use and are left out."
    if not test.rows:
        yield "No test row is left: the run has neither evaluation loss nor scores."


def _write(prepared: pa.Table, rows: np.ndarray, path: Path) -> None:
    numbers: Any = pa.array(rows[prepared["row"].to_numpy()], pa.int64())
    whole = prepared.set_column(0, "row", numbers)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, whole.schema) as writer:
        writer.write_table(whole)
