"""The dataset that the draft names: opened once a session, and what changes when another one is chosen.

Pure but for the session's cache; knows no widget.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import streamlit as st
from pydantic import ValidationError

from toolkit.config import Config, DataConfig
from toolkit.data.examples.templates import compile_template
from toolkit.data.read_options import SOURCE_SETTINGS
from toolkit.data.storage.background_open import StillOpeningError, open_or_wait
from toolkit.data.table import Table
from toolkit.errors import DataError

USUAL_COLUMN_PAIRS = (
    ("prompt", "completion"), ("instruction", "output"), ("instruction", "response"), ("question", "answer"),
    ("input", "output"), ("text", "label"), ("text", "summary"), ("source", "target"),
)  # fmt: skip
REOPEN_AFTER_SECONDS = 30.0
"""To find out that the hub can't be reached, or that a file is hopeless, may take as long as reading it."""


def open_cached_table(data: Mapping[str, Any], save_dir: Path, *, again: bool = False) -> Table:
    """The table of a draft's data section; raises DataError, StillOpening while a big one is on its way. The same file
    is opened once a session.

    A refusal is remembered for a while, because every run of a page asks; again: look anew in any case.
    """
    named = {name: data.get(name) for name in SOURCE_SETTINGS}
    key = (tuple(named.values()), _stamp(named["path"]), _stamp(named["test_path"]), str(save_dir))
    held = st.session_state.get("table")
    if held is None or held[0] != key:
        refused = st.session_state.get("table_refused")
        if (
            not again
            and refused is not None
            and refused[0] == key
            and time.monotonic() - refused[2] < REOPEN_AFTER_SECONDS
        ):
            raise refused[1]
        try:
            table = open_or_wait(_source(named), save_dir)
        except StillOpeningError:
            raise
        except DataError as error:
            st.session_state["table_refused"] = (key, error, time.monotonic())
            raise
        st.session_state["table"] = held = (key, table)
    return cast(Table, held[1])


def _source(named: Mapping[str, Any]) -> DataConfig:
    try:
        return DataConfig.model_validate(dict(named))
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(map(str, first["loc"][:1])) or "path"
        message = (
            f"'{str(named.get(setting))[:200]}' can't be the {setting.replace('_', ' ')} of a dataset: {first['msg']}."
        )
        raise DataError(message, "Choose another one.") from error


def _stamp(path: Any) -> tuple[int, int] | None:
    file = Path(str(path))
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def suggest_templates(columns: Sequence[str]) -> tuple[str, str]:
    """(prompt, prompt_stub) for these columns: a pair of usual names when there is one, else the first and the last."""
    lower = {column.lower(): column for column in columns}
    usable = [column for column in columns if "{" not in column and "}" not in column]
    if not usable:
        return "", ""
    for first, last in USUAL_COLUMN_PAIRS:
        if first in lower and last in lower:
            middle = lower.get("input") if first == "instruction" else None
            prompt = f"{{{lower[first]}}}" + (f"\n\n{{{middle}}}" if middle else "")
            return prompt, f"{{{lower[last]}}}"
    return (f"{{{usable[0]}}}" if len(usable) > 1 else ""), f"{{{usable[-1]}}}"


def templates_fit(prompt: str, stub: str, columns: Sequence[str]) -> bool:
    """Whether both templates compile against these columns, and the completion uses one of them."""
    try:
        compile_template(prompt, columns)
        return bool(compile_template(stub, columns).columns) or not columns
    except DataError:
        return False


def config_with_data(data: Mapping[str, Any]) -> Config | None:
    """A Config with this data section and defaults elsewhere; None while the section itself is invalid."""
    try:
        return Config.model_validate({"data": dict(data)})
    except ValidationError:
        return None
