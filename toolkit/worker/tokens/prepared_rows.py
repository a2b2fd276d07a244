"""A run's rows, ready for the trainer: split, rendered and tokenised once, or taken from the cache.

data/tokens.arrow holds, for each row that is trained or tested on, `row` (0-based in the run's table, ascending),
`input_ids`, `labels`, `truncated`, `length` and `trained` (numbers of tokens); data/train.npy and data/test.npy hold
positions in it. With several processes the first one writes and the others read. Knows no model and no trainer.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from toolkit.config import Config
from toolkit.data.examples.hard_stops import Fault, select_blocking
from toolkit.data.examples.renderers import renderer_of
from toolkit.data.examples.split import SplitPlan, plan_split
from toolkit.data.examples.templates import Example, Renderer
from toolkit.data.table import Table, load_table
from toolkit.errors import ToolkitError
from toolkit.runs.run_dir import RunDir
from toolkit.worker.tokens.cache import TOKENS_FILE, TokenCache, cache_key
from toolkit.worker.tokens.examples import chat_enabled
from toolkit.worker.tokens.hard_stop_rules import PromptFrame
from toolkit.worker.tokens.hard_stop_search import HardStopInspector
from toolkit.worker.tokens.labels import IGNORED_LABEL, PREPARED_SCHEMA, prepare_batches

_EmitEvent = Callable[..., None]
TableRows = np.ndarray[Any, np.dtype[np.int64]]
PREPARING_EVENT_PERIOD_S = 2.0
_FILE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        *list(PREPARED_SCHEMA)[1:],
        pa.field("length", pa.int32()),
        pa.field("trained", pa.int32()),
    ]
)


@dataclass(frozen=True)
class RowSource:
    """The run's table with the decision on each of its rows and the way to render one."""

    table: Table
    plan: SplitPlan
    renderer: Renderer

    def examples(self, rows: TableRows) -> Iterator[Example]:
        """Prompt and completion of these rows of the table, in this order."""
        for cells in self.table.take(rows, self.renderer.columns_needed):
            yield self.renderer.example(cells)

    def examples_ascending(self, rows: TableRows) -> Iterator[Example]:
        """The same for ascending rows, however many: in memory that does not grow."""
        for part in self.table.scan(rows, self.renderer.columns_needed):
            cells = {name: part.column(name).to_pylist() for name in part.column_names}
            yield from self.renderer.examples(cells, part.num_rows)


@dataclass(frozen=True)
class SplitSide:
    """One side of the split: positions in tokens.arrow, and how many of its rows have nothing left to learn."""

    positions: TableRows
    lost: int


def open_row_source(run: RunDir, config: Config) -> RowSource:
    """Raises DataError: no table, templates that don't fit it, sizes that don't."""
    table = load_table(run.source_path)
    renderer = renderer_of(config.data, table.columns, table.label)
    return RowSource(table, plan_split(table, config.data), renderer)


def write_splits(
    run: RunDir,
    config: Config,
    source: RowSource,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    tell: _EmitEvent,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Prepare both parts, write them and tell what was found. `check` is called between batches and may raise.

    Raises ToolkitError when nothing is left to train on.
    """
    chat = chat_enabled(config, tokenizer)
    plan = source.plan
    rows = np.sort(np.concatenate([plan.train, plan.test]))
    path = run.data_dir / TOKENS_FILE
    data = config.data
    rendered = {"messages": data.messages} if data.messages else {"prompt": data.prompt, "stub": data.prompt_stub}
    only = config.training.sft_args.completion_only_loss
    parts = {**rendered, "length": length, "chat": chat, "completion_only": only,
             "accepted": sorted(data.accepted or ())}  # fmt: skip
    cache, key = TokenCache(run.save_dir), cache_key(parts, tokenizer, run.source_path, rows)
    cached = cache.fetch(key, path)
    if not cached:
        form = PromptFrame.of(tokenizer, chat, length, only, source.table.columns)
        faults = _tokenise(source, rows, form, path, _make_progress_reporter(tell, len(rows), check))
        _refuse_hard_stops(faults, config.data.accepted or (), tell)
        cache.keep(key, path)
    figures = _read_counts(path)
    train, test = _find_positions(figures["row"], plan.train), _find_positions(figures["row"], plan.test)
    tell("prepared", **_count_split(figures, train, test), dropped=len(plan.dropped), max_length=length, chat=chat,
         cached=cached)  # fmt: skip
    for message in _warnings(figures, train, test, len(plan.dropped), length):
        tell("warning", message=message)
    if not train.positions.size:
        message = f"No row has a completion left within {length} tokens: nothing could be learned."
        raise ToolkitError(message, "Raise max_seq_length, or shorten the prompt.", "bad_data")
    # like lengths together: less padding in every evaluation
    by_length = test.positions[np.argsort(figures["length"][test.positions], kind="stable")]
    np.save(run.data_dir / "train.npy", train.positions)
    np.save(run.data_dir / "test.npy", by_length)


def read_splits(run: RunDir) -> tuple[Dataset, Dataset]:
    """(train, test), memory-mapped: rows come from the disk when they are asked for."""
    whole = Dataset.from_file(str(run.data_dir / TOKENS_FILE))
    train, test = (np.load(run.data_dir / f"{name}.npy", allow_pickle=False) for name in ("train", "test"))
    return whole.select(train), whole.select(test)


def read_token_lengths(dataset: Dataset) -> list[int]:
    """Tokens of each row, in the dataset's order."""
    if "length" in dataset.column_names:
        return [int(length) for length in dataset.with_format("numpy")["length"][:]]
    lengths: list[int] = pc.list_value_length(dataset.with_format("arrow")[:].column("input_ids")).to_pylist()
    return lengths


def _tokenise(
    source: RowSource, rows: TableRows, form: PromptFrame, path: Path, progress: Callable[[int], None]
) -> list[Fault]:
    """Write tokens.arrow, batch by batch; returns the hard stops met on the way."""
    gc.freeze()  # the libraries stay: going through them with every batch would take a tenth of the time
    lost: list[int] = []
    inspector = HardStopInspector(form)
    done = 0
    aside = path.with_suffix(".part")
    with pa.OSFile(str(aside), "wb") as file, pa.ipc.new_stream(file, _FILE_SCHEMA) as writer:
        for batch in prepare_batches(
            source.examples_ascending(rows), form.tokenizer, form.length, form.chat, lost,
            completion_only=form.completion_only, inspect=inspector,
        ):  # fmt: skip
            writer.write_batch(_add_counts(batch, rows))
            done += batch.num_rows
            progress(done + len(lost))
    aside.rename(path)  # never written in place: an earlier attempt's file may be the cache's own
    return inspector.faults(rows)


def _refuse_hard_stops(faults: Sequence[Fault], accepted: Collection[str], tell: _EmitEvent) -> None:
    """Raise ToolkitError for hard stops that nobody has accepted; tell of the others."""
    stops = select_blocking(faults, accepted)
    if stops:
        meant = [fault.kind for fault in stops if fault.judgement]
        way = f" If it is meant: accept it on the Data page, or run with --accept {meant[0]}." if meant else ""
        raise ToolkitError(" ".join(fault.message for fault in stops), stops[0].hint + way)
    for fault in faults:
        tell("warning", message=f"{fault.message} This was accepted.")


def _add_counts(batch: pa.RecordBatch, rows: TableRows) -> pa.RecordBatch:
    numbers = pa.array(rows[batch.column("row").to_numpy()], pa.int64())
    labels = batch.column("labels")
    learned = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy() != IGNORED_LABEL)])
    offsets = labels.offsets.to_numpy() - labels.offsets[0].as_py()
    trained = pa.array(np.diff(learned[offsets]), pa.int32())
    rest = [batch.column(name) for name in ("input_ids", "labels", "truncated")]
    return pa.record_batch([numbers, *rest, pc.list_value_length(labels), trained], schema=_FILE_SCHEMA)


def _make_progress_reporter(tell: _EmitEvent, total: int, check: Callable[[], None]) -> Callable[[int], None]:
    told = time.monotonic()

    def progress(done: int) -> None:
        nonlocal told
        check()
        if time.monotonic() - told > PREPARING_EVENT_PERIOD_S:
            told = time.monotonic()
            tell("phase", phase=f"preparing data: {done:,} of {total:,} rows")

    return progress


def _read_counts(path: Path) -> dict[str, np.ndarray]:
    """The columns of tokens.arrow that hold one number a row."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all().select(["row", "truncated", "length", "trained"])
        return {name: table.column(name).to_numpy() for name in table.column_names}


def _find_positions(there: TableRows, wanted: TableRows) -> SplitSide:
    """Positions of the wanted rows among the ascending ones that are there, in the wanted order."""
    at = np.searchsorted(there, wanted)
    found = at < len(there)
    found[found] = there[at[found]] == wanted[found]
    return SplitSide(at[found], int(np.count_nonzero(~found)))


def _count_split(figures: dict[str, np.ndarray], train: SplitSide, test: SplitSide) -> dict[str, int]:
    both = np.concatenate([train.positions, test.positions])
    return {
        "train_rows": len(train.positions),
        "test_rows": len(test.positions),
        "cut_away": train.lost + test.lost,
        "truncated_rows": int(figures["truncated"][both].sum()) + train.lost + test.lost,
        "train_tokens": int(figures["length"][train.positions].sum()),
        "trained_tokens": int(figures["trained"][train.positions].sum()),
        "longest": int(figures["length"][both].max(initial=0)),
    }


def _warnings(
    figures: dict[str, np.ndarray], train: SplitSide, test: SplitSide, dropped: int, length: int
) -> Iterator[str]:
    facts = _count_split(figures, train, test)
    cut, lost = facts["truncated_rows"], facts["cut_away"]
    if cut:
        yield f"{cut:,} rows are longer than {length} tokens and were cut at the end: raise max_seq_length to keep it."
    if lost:
        yield f"Of these, {lost:,} rows lost their whole completion and are left out: nothing in them could be learned."
    if dropped:
        yield f"{dropped:,} rows lack a cell that the templates use and are left out."
    if not test.positions.size:
        yield "No test row is left: the run has neither evaluation loss nor scores."
