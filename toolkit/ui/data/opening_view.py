"""A large dataset that is being opened in the background: its progress, and the request for it.

The request is stored in `opening.json` of the workspace folder, so that a page refresh, another tab or a restart of the
app continues it. The previous dataset stays in use until the new one is open.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st
from pydantic import ValidationError

from toolkit.config import DataConfig
from toolkit.data.read_options import READ_OPTION_NAMES, ReadOptions
from toolkit.data.storage.background_open import DatasetOpening, StillOpeningError, cancel_opening, request_opening
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import parse_foreign_json, read_foreign_file
from toolkit.system.printable import format_duration, format_share
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.workspace_file import home_folder

OPENING_REFRESH_S = 1.0


@dataclass(frozen=True)
class PendingDataset:
    """A dataset that was chosen and is not open yet. options: None keeps the reading options of the draft."""

    file_type: str
    path: str
    options: ReadOptions | None = None
    test_path: str | None = None

    def dump(self) -> str:
        return json.dumps({**asdict(self), "options": asdict(self.options) if self.options else None})

    @classmethod
    def load(cls, text: str) -> PendingDataset:
        content = parse_foreign_json(text)
        options = ReadOptions(**content["options"]) if content["options"] else None
        return cls(content["file_type"], content["path"], options, content["test_path"])

    def data_config(self) -> DataConfig:
        chosen = self.options or ReadOptions(
            **{name: value for name in READ_OPTION_NAMES if (value := workspace.current_setting(f"data.{name}"))}
        )
        named = {name: getattr(chosen, name) or None for name in READ_OPTION_NAMES}
        return DataConfig.model_validate(
            {"file_type": self.file_type, "path": self.path, "test_path": self.test_path, **named}
        )


def request_dataset(
    file_type: str, path: str, options: ReadOptions | None = None, test_path: str | None = None
) -> bool:
    """Put a dataset into the draft now, or record the request when opening it takes longer.

    Returns whether the dataset is open. Raises DataError when it can't be opened; the draft keeps the previous one.
    """
    _pending_file().unlink(missing_ok=True)
    try:
        workspace.choose_dataset(file_type, path, options, test_path)
    except StillOpeningError:
        durable_write(_pending_file(), PendingDataset(file_type, path, options, test_path).dump())
        return False
    return True


def show_pending_dataset(on_opened: Callable[[PendingDataset], None]) -> None:
    """Draw the progress of the requested dataset, if there is one; call `on_opened` once opening it has ended."""
    pending = read_pending_dataset()
    if pending is None:
        return
    try:
        opening_job = request_opening(pending.data_config(), workspace.current_save_dir())
    except ValidationError:  # written by another version of this app
        _pending_file().unlink(missing_ok=True)
        return
    if opening_job.over.is_set():
        on_opened(pending)
    else:
        st.fragment(_progress, run_every=OPENING_REFRESH_S)(opening_job, can_cancel=True)


def show_opening_progress(opening_job: DatasetOpening) -> None:
    """Draw the progress of the draft's own dataset, which is opened again after a restart of the app."""
    st.fragment(_progress, run_every=OPENING_REFRESH_S)(opening_job, can_cancel=False)


def _progress(opening_job: DatasetOpening, can_cancel: bool) -> None:
    if opening_job.over.is_set():
        st.rerun()
    done, step, seconds_left = opening_job.progress
    wait = f", about {format_duration(seconds_left)} left" if seconds_left is not None else ""
    label = f"Opening **{escape_text(opening_job.label)}**: {escape_text(step)}, {format_share(round(done, 2))}{wait}"
    with st.container(border=True):
        st.progress(done, text=f":material/hourglass_top: {label}")
        if can_cancel:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption("You can leave this page. The previous dataset stays in use until this one is open.")
                if st.button("Cancel opening", icon=":material/close:", type="tertiary", key="opening_cancel"):
                    cancel_opening(opening_job)
                    _pending_file().unlink(missing_ok=True)
                    st.rerun()


def _pending_file() -> Path:
    return home_folder() / "opening.json"


def read_pending_dataset() -> PendingDataset | None:
    """Return the dataset that was requested and is not open yet, or None."""
    try:
        return PendingDataset.load(read_foreign_file(_pending_file()).decode())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # incomplete, or written by another version of this app
        _pending_file().unlink(missing_ok=True)
        return None
