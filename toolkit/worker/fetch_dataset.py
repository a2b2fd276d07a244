"""Brings a Hugging Face dataset here as a table of text: `python -m toolkit.worker.fetch_dataset`.

The only place that calls `datasets.load_dataset`. Takes a request as JSON on standard input, like `data/readers/read_file.py`, and
leaves table.parquet and report.json in the folder it was given. Without a network it says so within seconds, unless the
dataset is in the local cache. Never runs code from a dataset: the installed version has no way to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from toolkit.data.readers.read_file import TABLE_FILE, brace_notices, data_error_as_dict, write_task_report
from toolkit.data.readers.table_writer import TableWriter
from toolkit.errors import DataError

if TYPE_CHECKING:
    import datasets

HUB_PROBE_SECONDS = 8.0
TRAIN_SPLIT_NAME = "train"
_NOT_TEXT = ("Image", "Audio", "Video", "Pdf", "Nifti")


def main() -> int:
    """0 when the request was answered, with a table or with a reason."""
    request = json.load(sys.stdin)
    folder = Path(request["folder"])
    os.chdir(folder)  # an empty folder: the id must not name a folder beside the app
    online = is_hub_reachable()
    if not online:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the libraries are imported: hence the late imports
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        fetch_dataset_table(request["dataset"], folder, online)
    except DataError as error:
        write_task_report(folder, error=data_error_as_dict(error))
    else:
        write_task_report(folder, error=None)
    return 0


def is_hub_reachable() -> bool:
    """Does the hub answer? False at once when the environment says to stay offline."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        httpx.head(endpoint, timeout=HUB_PROBE_SECONDS)
    except httpx.HTTPError:
        return False
    return True


def fetch_dataset_table(name: str, folder: Path, online: bool) -> None:
    """Write the dataset's rows to folder/table.parquet. Raises DataError."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        loaded = datasets.load_dataset(name)
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise _explain_fetch_error(name, error, online) from error
    splits = dict(loaded)
    chosen, notices = choose_hub_split(name, {split: len(rows) for split, rows in splits.items()})
    write_split_table(splits[chosen], folder, name, notices)


def choose_hub_split(name: str, sizes: dict[str, int]) -> tuple[str, list[str]]:
    """(split to read, notices): "train" when there is one, else the only one. Raises DataError when that is unclear."""
    if not sizes:
        raise DataError(f"The dataset {name} has no rows.", "Choose another dataset.")
    listed = ", ".join(f"{split} ({rows:,} rows)" for split, rows in sizes.items())
    if TRAIN_SPLIT_NAME in sizes:
        others = [split for split in sizes if split != TRAIN_SPLIT_NAME]
        return TRAIN_SPLIT_NAME, [f"Read the split train; left out: {', '.join(others)}."] if others else []
    if len(sizes) == 1:
        return next(iter(sizes)), []
    raise DataError(f"The dataset {name} has no split named train: {listed}.", "Save the one you want as JSON.")


def write_split_table(rows: datasets.Dataset, folder: Path, label: str, notices: Sequence[str]) -> None:
    """Write a split's rows as text. Pictures and sounds are left out with a notice."""
    import datasets

    kinds = {column: type(feature).__name__ for column, feature in rows.features.items()}
    kept = [column for column, kind in kinds.items() if kind not in _NOT_TEXT]
    said = [*notices]
    if len(kept) < len(kinds):
        said.append(f"Columns that are not text were left out: {', '.join(c for c in kinds if c not in kept)}.")
    labels = {c: rows.features[c] for c in kept if isinstance(rows.features[c], datasets.ClassLabel)}
    if labels:
        said.append(f"Class numbers are shown as their names: {', '.join(labels)}.")
    nested = [c for c in kept if c not in labels and kinds[c] != "Value"]
    if nested:
        said.append(f"Columns that hold lists or objects are their JSON text: {', '.join(nested)}.")
    if not kept or not len(rows):
        raise DataError(f"The dataset {label} has no rows with text.", "Choose another dataset.")
    writer = TableWriter(folder, lambda row: f"row {row:,} of the split")
    for column in kept:
        writer.add_column(column)
    texts = [_text_converter(labels.get(column)) for column in kept]
    for number, cells in enumerate(_cells(rows.select_columns(kept), kept), start=1):
        writer.add([text(cell) for text, cell in zip(texts, cells, strict=True)], number)
    writer.finish(folder / TABLE_FILE, label, said + brace_notices(kept))


def _cells(rows: datasets.Dataset, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    for batch in rows.with_format("python").iter(batch_size=1_000):
        yield from zip(*(batch[column] for column in columns), strict=True)


def _text_converter(label: Any) -> Callable[[Any], str | None]:
    def text(cell: Any) -> str | None:
        if cell is None or isinstance(cell, str):
            return cell
        if label is not None:
            return str(label.int2str(cell)) if cell >= 0 else None
        if isinstance(cell, bool | int | float | list | dict):
            return json.dumps(cell, ensure_ascii=False, default=str)
        return str(cell)

    return text


def _explain_fetch_error(name: str, error: Exception, online: bool) -> DataError:
    if not online:
        return DataError(
            f"The dataset {name} is not on this machine, and the Hugging Face hub can't be reached.",
            "Connect to the network, or use a CSV or JSON file.",
        )
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    kind = type(error).__name__
    if "Gated" in kind or "gated" in first:
        hint = "Accept its licence on its page, and set HF_TOKEN before you start the app."
    elif "NotFound" in kind:
        hint = "Check the spelling of owner/name. A private one needs HF_TOKEN in the environment."
    else:
        hint = "Look at its page on the hub: it may need a configuration name, which can't be given here."
    return DataError(f"The dataset {name} can't be loaded: {first}", hint)


if __name__ == "__main__":
    sys.exit(main())
