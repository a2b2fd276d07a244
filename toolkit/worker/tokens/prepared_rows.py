"""Rows of a run, ready for the trainer: split, rendered and tokenized once, or taken from the cache.

data/tokens.arrow holds for each row of the training and the test set: `row` (0-based in the run's table, ascending),
`input_ids`, `labels`, `truncated`, and `length` and `trained` (numbers of tokens). data/train.npy and data/test.npy
hold positions in it. With several processes, the first one writes and the others read.
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
from toolkit.runs.events import EventReporter
from toolkit.runs.run_dir import RunDir
from toolkit.system.printable import format_plural
from toolkit.worker.models.load import vocabulary_size_of
from toolkit.worker.tokens.cache import TOKENS_FILE, TokenCache, cache_key
from toolkit.worker.tokens.examples import chat_enabled
from toolkit.worker.tokens.hard_stop_rules import PromptFrame
from toolkit.worker.tokens.hard_stop_search import HardStopInspector
from toolkit.worker.tokens.labels import IGNORED_LABEL, PREPARED_SCHEMA, prepare_batches

TableRows = np.ndarray[Any, np.dtype[np.int64]]
PREPARING_EVENT_PERIOD_S = 2.0
"""Seconds between two progress events: often enough for a person, and few lines in the event log."""
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
    """The table of a run, its split, and the renderer of its rows."""

    table: Table
    plan: SplitPlan
    renderer: Renderer

    def examples(self, rows: TableRows) -> Iterator[Example]:
        """Yield the examples of these rows of the table, in this order."""
        for cells in self.table.take(rows, self.renderer.columns_needed):
            yield self.renderer.example(cells)

    def examples_ascending(self, rows: TableRows) -> Iterator[Example]:
        """Yield the examples of ascending rows; the memory needed does not depend on their number."""
        for part in self.table.scan(rows, self.renderer.columns_needed):
            cells = {name: part.column(name).to_pylist() for name in part.column_names}
            yield from self.renderer.examples(cells, part.num_rows)


@dataclass(frozen=True)
class SplitSide:
    """One side of the split: positions in tokens.arrow. lost: number of its rows without a trained token."""

    positions: TableRows
    lost: int


def open_row_source(run: RunDir, config: Config) -> RowSource:
    """Open the table of a run and plan its split.

    Raises DataError: there is no table, or the templates or the split sizes do not fit it.
    """
    table = load_table(run.source_path)
    renderer = renderer_of(config.data, table.columns, table.label)
    return RowSource(table, plan_split(table, config.data), renderer)


def write_splits(
    run: RunDir,
    config: Config,
    source: RowSource,
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    report_event: EventReporter,
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Prepare the training and test rows, write them, and report the event "prepared" with warnings.

    length: limit in tokens. check_stop: is called between batches and may raise. Raises ToolkitError: a blocking
    problem was found and not accepted, or no row is left to train on.
    """
    chat = chat_enabled(config, tokenizer)
    plan = source.plan
    rows = np.sort(np.concatenate([plan.train, plan.test]))
    path = run.data_dir / TOKENS_FILE
    data = config.data
    rendered = {"messages": data.messages} if data.messages else {"prompt": data.prompt, "stub": data.prompt_stub}
    only = config.training.sft_args.completion_only_loss
    accepted = sorted(data.accepted or ())
    # accepted problems are part of the key, because a cached entry skips the check
    parts = {**rendered, "length": length, "chat": chat, "completion_only": only, "accepted": accepted}
    parts["embedded"] = vocabulary_size_of(tokenizer)  # so are ids that the model has no embeddings for
    cache, key = TokenCache(run.save_dir), cache_key(parts, tokenizer, run.source_path, rows)
    cached = cache.link_into(key, path)
    if not cached:
        frame = PromptFrame.of(tokenizer, chat, length, only, source.table.columns)
        report_progress = _make_progress_reporter(report_event, len(rows), check_stop)
        faults = _tokenize_rows(source, rows, frame, path, report_progress)
        _apply_hard_stops(faults, accepted, report_event)
        cache.store(key, path)
    columns = _read_counts(path)
    train, test = _find_positions(columns["row"], plan.train), _find_positions(columns["row"], plan.test)
    counts = _count_split(columns, train, test)
    report_event("prepared", **counts, dropped=len(plan.dropped), max_length=length, chat=chat, cached=cached)
    sequences = len(columns["row"]) - len(np.unique(columns["row"]))
    if sequences:
        report_event("warning", message=_describe_split_rows(sequences))
    for message in _warnings(counts, len(plan.dropped), length):
        report_event("warning", message=message)
    if not train.positions.size:
        message = f"No training row has a trained token within {length:,} tokens."
        raise ToolkitError(message, "Raise max_seq_length, or shorten the prompt.", "bad_data")
    # rows of similar length in one batch need less padding in every evaluation
    by_length = test.positions[np.argsort(columns["length"][test.positions], kind="stable")]
    np.save(run.data_dir / "train.npy", train.positions)
    np.save(run.data_dir / "test.npy", by_length)


def read_splits(run: RunDir) -> tuple[Dataset, Dataset]:
    """Return (training set, test set), memory-mapped: a row is read from the disk when it is used."""
    all_rows = Dataset.from_file(str(run.data_dir / TOKENS_FILE))
    train, test = (np.load(run.data_dir / f"{name}.npy", allow_pickle=False) for name in ("train", "test"))
    return all_rows.select(train), all_rows.select(test)


def read_token_lengths(dataset: Dataset) -> list[int]:
    """Return the number of tokens of each row, in the order of the dataset."""
    if "length" in dataset.column_names:
        return [int(length) for length in dataset.with_format("numpy")["length"][:]]
    lengths: list[int] = pc.list_value_length(dataset.with_format("arrow")[:].column("input_ids")).to_pylist()
    return lengths


def _tokenize_rows(
    source: RowSource, rows: TableRows, frame: PromptFrame, path: Path, report_progress: Callable[[int], None]
) -> list[Fault]:
    """Write tokens.arrow batch by batch; return the problems found."""
    gc.freeze()  # the objects of the libraries stay alive: scanning them with every batch takes 10 % of the time
    lost: list[int] = []
    inspector = HardStopInspector(frame)
    done = 0
    temporary = path.with_suffix(".part")
    with pa.OSFile(str(temporary), "wb") as file, pa.ipc.new_stream(file, _FILE_SCHEMA) as writer:
        for batch in prepare_batches(
            source.examples_ascending(rows),
            frame.tokenizer,
            frame.length,
            frame.chat,
            lost,
            completion_only=frame.completion_only,
            inspect=inspector,
        ):
            writer.write_batch(_add_counts(batch, rows))
            done += batch.num_rows
            report_progress(done + len(lost))
    temporary.rename(path)  # not written in place: the file of an earlier attempt may be a hard link to a cache entry
    return inspector.faults(rows)


def _apply_hard_stops(faults: Sequence[Fault], accepted: Collection[str], report_event: EventReporter) -> None:
    """Raise ToolkitError for the blocking problems that were not accepted; report the others as warnings."""
    blocking = select_blocking(faults, accepted)
    if blocking:
        acceptable = [fault.kind for fault in blocking if fault.can_be_accepted]
        next_step = (
            f" If this is intended, accept it on the Data page, or run with --accept {acceptable[0]}."
            if acceptable
            else ""
        )
        raise ToolkitError(" ".join(fault.message for fault in blocking), blocking[0].hint + next_step)
    for fault in faults:
        report_event("warning", message=f"{fault.message} This was accepted.")


def _add_counts(batch: pa.RecordBatch, rows: TableRows) -> pa.RecordBatch:
    """Return the batch with row numbers of the table, and with the columns `length` and `trained`."""
    numbers = pa.array(rows[batch.column("row").to_numpy()], pa.int64())
    labels = batch.column("labels")
    trained_before = np.concatenate([[0], np.cumsum(labels.flatten().to_numpy() != IGNORED_LABEL)])
    offsets = labels.offsets.to_numpy() - labels.offsets[0].as_py()
    trained = pa.array(np.diff(trained_before[offsets]), pa.int32())
    kept = [batch.column(name) for name in ("input_ids", "labels", "truncated")]
    return pa.record_batch([numbers, *kept, pc.list_value_length(labels), trained], schema=_FILE_SCHEMA)


def _make_progress_reporter(
    report_event: EventReporter, total: int, check_stop: Callable[[], None]
) -> Callable[[int], None]:
    reported_at = time.monotonic()

    def report_progress(done: int) -> None:
        nonlocal reported_at
        check_stop()
        if time.monotonic() - reported_at > PREPARING_EVENT_PERIOD_S:
            reported_at = time.monotonic()
            report_event("phase", phase=f"preparing data: {done:,} of {total:,} rows")

    return report_progress


def _read_counts(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of tokens.arrow that hold one number per row."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all().select(["row", "truncated", "length", "trained"])
        return {name: table.column(name).to_numpy() for name in table.column_names}


def _find_positions(available: TableRows, wanted: TableRows) -> SplitSide:
    """Return the positions of `wanted` in `available`, in the order of `wanted`; `available` is ascending.

    A row that is trained as several sequences has several positions.
    """
    first, end = (np.searchsorted(available, wanted, side) for side in ("left", "right"))
    counts = end - first
    before = np.cumsum(counts) - counts
    positions = np.repeat(first - before, counts) + np.arange(int(counts.sum()))
    return SplitSide(positions, int(np.count_nonzero(counts == 0)))


def _describe_split_rows(sequences: int) -> str:
    return (
        f"The chat template rewrites earlier answers once more messages follow. {sequences:,} of these answers are "
        "trained in sequences of their own, as the model writes them in a chat."
    )


def _count_split(columns: dict[str, np.ndarray], train: SplitSide, test: SplitSide) -> dict[str, int]:
    """Return the figures of the event "prepared"."""
    both = np.concatenate([train.positions, test.positions])
    return {
        "train_rows": len(train.positions),
        "test_rows": len(test.positions),
        "cut_away": train.lost + test.lost,
        "truncated_rows": int(columns["truncated"][both].sum()) + train.lost + test.lost,
        "train_tokens": int(columns["length"][train.positions].sum()),
        "trained_tokens": int(columns["trained"][train.positions].sum()),
        "longest": int(columns["length"][both].max(initial=0)),
    }


def _count_rows(count: int, verb_of_one: str, verb: str) -> str:
    return f"{format_plural(count, 'row')} {verb_of_one if count == 1 else verb}"


def _warnings(counts: dict[str, int], dropped: int, length: int) -> Iterator[str]:
    """Yield what the user should know about the prepared rows. counts: of `_count_split`."""
    truncated, lost = counts["truncated_rows"], counts["cut_away"]
    if truncated:
        yield (
            f"{_count_rows(truncated, 'is', 'are')} longer than {length:,} tokens and truncated at the end. "
            "Raise max_seq_length to train on whole rows."
        )
    if lost:
        yield f"{lost:,} of the truncated rows lost their whole completion, so no trained token is left: skipped."
    if dropped:
        where = "a missing cell in a column that the templates use"
        yield f"{_count_rows(dropped, 'has', 'have')} {where} and {'is' if dropped == 1 else 'are'} skipped."
    if not counts["test_rows"]:
        yield "The test set is empty, so the run will have no evaluation loss and no scores."
