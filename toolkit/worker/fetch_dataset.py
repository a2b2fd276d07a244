"""The child process that downloads a Hugging Face dataset as a table: `python -m toolkit.worker.fetch_dataset`.

Its request is {"dataset": id, "folder": ..., "options": ReadOptions as an object}; it leaves table.parquet in the
folder. It is the only code that calls `datasets.load_dataset`. Without a network it reads the local cache, or fails
within seconds. It never runs code from a dataset: the installed version of `datasets` does not support that.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from toolkit.data.progress import DataProgressReporter
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, Offer, ReadOptions, UnreadableError
from toolkit.data.readers.table_writer import TableWriter
from toolkit.data.shapes.nested_rows import UNCHANGED, NestedAnswers
from toolkit.data.task_process import TABLE_FILE, run_task
from toolkit.errors import DataError

if TYPE_CHECKING:
    import datasets

MAX_OFFERS = 20
"""Configurations or splits that are offered."""
HUB_PROBE_SECONDS = 8.0
"""Seconds to wait for an answer of the hub before only the local cache is used."""
TRAIN_SPLIT_NAME = "train"
_NOT_TEXT = ("Image", "Audio", "Video", "Pdf", "Nifti")


def _fetch(request: dict[str, Any], report_progress: DataProgressReporter) -> None:
    folder = Path(request["folder"])
    os.chdir(folder)  # an empty folder: `load_dataset` would read a local folder with the name of the dataset
    online = is_hub_reachable()
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported, which is why that happens later
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    fetch_dataset_table(request["dataset"], folder, online, ReadOptions(**request["options"]))


def is_hub_reachable() -> bool:
    """Return whether the hub answers; False without trying when HF_HUB_OFFLINE is set."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx.head(endpoint, timeout=HUB_PROBE_SECONDS)
    except httpx.HTTPError:
        return False
    return True


def fetch_dataset_table(name: str, folder: Path, online: bool, options: ReadOptions = DEFAULT_READ_OPTIONS) -> None:
    """Write the rows that the options name to folder/table.parquet.

    Raises DataError when they can't be loaded or have no text, UnreadableError when the user has to choose.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        if options.hub_config is None:
            _ask_configuration(name, options)
        loaded = datasets.load_dataset(name, options.hub_config, revision=options.hub_revision)
    except UnreadableError:
        raise
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise _explain_fetch_error(name, error, online) from error
    splits = dict(loaded)
    chosen, notices = choose_hub_split(name, {split: len(rows) for split, rows in splits.items()}, options)
    write_split_table(splits[chosen], folder, name, notices)


def _ask_configuration(name: str, options: ReadOptions) -> None:
    """Raise UnreadableError with the configurations of a dataset that has several and no default."""
    import datasets

    names = datasets.get_dataset_config_names(name, revision=options.hub_revision)
    if len(names) < 2 or datasets.get_dataset_default_config_name(name, revision=options.hub_revision) is not None:
        return
    offers = [Offer(f"Read the configuration '{one}'", replace(options, hub_config=one)) for one in names[:MAX_OFFERS]]
    listed = ", ".join(names[:MAX_OFFERS]) + (", …" if len(names) > MAX_OFFERS else "")
    message = f"The dataset {name} has {len(names):,} configurations: {listed}."
    raise UnreadableError(message, "Choose one of them, or enter its name as the configuration.", offers)


def choose_hub_split(
    name: str, sizes: dict[str, int], options: ReadOptions = DEFAULT_READ_OPTIONS
) -> tuple[str, list[str]]:
    """Return (split to read, notices): the one that the options name, else "train", else the only one.

    sizes: rows of each split. Raises UnreadableError with the splits when the user has to choose.
    """
    if not sizes:
        raise DataError(f"The dataset {name} has no rows.", "Choose another dataset.")
    if options.hub_split in sizes:
        return str(options.hub_split), []
    listed = ", ".join(f"{split} ({rows:,} rows)" for split, rows in sizes.items())
    offers = [
        Offer(f"Read the split '{split}' ({rows:,} rows)", replace(options, hub_split=split))
        for split, rows in list(sizes.items())[:MAX_OFFERS]
    ]
    if options.hub_split is not None:
        message = f"The dataset {name} has no split named '{options.hub_split}': {listed}."
        raise UnreadableError(message, "Choose one of its splits.", offers)
    if TRAIN_SPLIT_NAME in sizes:
        others = [split for split in sizes if split != TRAIN_SPLIT_NAME]
        return TRAIN_SPLIT_NAME, [f"Only the split train was read; ignored: {', '.join(others)}."] if others else []
    if len(sizes) == 1:
        return next(iter(sizes)), []
    message = f"The dataset {name} has no split named train: {listed}."
    raise UnreadableError(message, "Choose one of its splits, or enter its name as the split.", offers)


def write_split_table(rows: datasets.Dataset, folder: Path, label: str, notices: Sequence[str]) -> None:
    """Write a split's rows as text to folder/table.parquet. Images, audio and video are skipped with a notice.

    Raises DataError when no text remains.
    """
    import datasets

    kinds = {column: type(feature).__name__ for column, feature in rows.features.items()}
    kept = [column for column, kind in kinds.items() if kind not in _NOT_TEXT]
    notices = [*notices]
    if len(kept) < len(kinds):
        notices.append(f"Columns that are not text were skipped: {', '.join(c for c in kinds if c not in kept)}.")
    labels = {c: rows.features[c] for c in kept if isinstance(rows.features[c], datasets.ClassLabel)}
    if labels:
        notices.append(f"Class numbers were replaced with their names: {', '.join(labels)}.")
    nested = [c for c in kept if c not in labels and kinds[c] != "Value"]
    if not kept or not len(rows):
        raise DataError(f"The dataset {label} has no rows with text.", "Choose another dataset.")
    writer = TableWriter(folder, lambda row: f"row {row:,} of the split")
    for column in kept:
        writer.add_column(column)
    answers = NestedAnswers()
    texts = [_text_converter(column, labels.get(column), answers) for column in kept]
    for number, cells in enumerate(_cells(rows.select_columns(kept), kept), start=1):
        writer.add([text(cell) for text, cell in zip(texts, cells, strict=True)], number)
    if nested := [column for column in nested if column not in answers.columns]:
        notices.append(f"Lists and objects were converted to JSON text: {', '.join(nested)}.")
    notices += answers.notices()
    writer.finish(folder / TABLE_FILE, label, notices)


def _cells(rows: datasets.Dataset, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    for batch in rows.with_format("python").iter(batch_size=1_000):
        yield from zip(*(batch[column] for column in columns), strict=True)


def _text_converter(column: str, label: Any, answers: NestedAnswers) -> Callable[[Any], str | None]:
    def text(cell: Any) -> str | None:
        if cell is None or isinstance(cell, str):
            return cell
        if label is not None:
            return str(label.int2str(cell)) if cell >= 0 else None
        answer = answers.read(column, cell) if isinstance(cell, list | dict) else UNCHANGED
        if answer is not UNCHANGED:
            return None if answer is None else str(answer)
        if isinstance(cell, bool | int | float | list | dict):
            return json.dumps(cell, ensure_ascii=False, default=str)
        return str(cell)

    return text


def _explain_fetch_error(name: str, error: Exception, online: bool) -> DataError:
    if not online:
        return DataError(
            f"The dataset {name} is not on this machine, and the Hugging Face Hub can't be reached.",
            "Connect to the network, or use a CSV, JSON or Parquet file.",
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    kind = type(error).__name__
    if "Gated" in kind or "gated" in reason:
        hint = "Accept its license on its page, and set HF_TOKEN before you start the app."
    elif "NotFound" in kind:
        hint = "Check the spelling of owner/name. A private dataset needs HF_TOKEN in the environment."
    else:
        hint = "See its page on the Hub. The name of the configuration, split or revision may be wrong."
    return DataError(f"The dataset {name} can't be loaded: {reason}", hint)


if __name__ == "__main__":
    sys.exit(run_task(_fetch, needs_pandas=True))
