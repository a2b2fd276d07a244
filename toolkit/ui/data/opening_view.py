"""A big dataset on its way: how far it is, how long still. What was asked for is kept on disk, so that a refresh,
another tab or a restart goes on with it; until it is there the former dataset stays in use.
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
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_duration, format_share
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.workspace_file import home_folder

OPENING_REFRESH_S = 1.0


@dataclass(frozen=True)
class PendingDataset:
    """A dataset that was chosen and is not there yet; options None: the draft's own choices stay."""

    file_type: str
    path: str
    options: ReadOptions | None = None
    test_path: str | None = None

    def dump(self) -> str:
        return json.dumps({**asdict(self), "options": asdict(self.options) if self.options else None})

    @classmethod
    def load(cls, text: str) -> PendingDataset:
        content = json.loads(text)
        options = ReadOptions(**content["options"]) if content["options"] else None
        return cls(content["file_type"], content["path"], options, content["test_path"])

    def data(self) -> DataConfig:
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
    """Take a dataset into the draft, at once or, when opening it takes longer, as soon as it is there.

    Returns whether it is there. Raises DataError when it can't be opened; the former one stays.
    """
    _pending_file().unlink(missing_ok=True)
    try:
        workspace.choose_dataset(file_type, path, options, test_path)
    except StillOpeningError:
        durable_write(_pending_file(), PendingDataset(file_type, path, options, test_path).dump())
        return False
    return True


def show_pending_dataset(take: Callable[[PendingDataset], None]) -> None:
    """The dataset that is on its way, if there is one; `take` takes it once it is there, or says why it is not."""
    wish = read_pending_dataset()
    if wish is None:
        return
    try:
        one = request_opening(wish.data(), workspace.current_save_dir())
    except ValidationError:  # the file is of another version of this app
        _pending_file().unlink(missing_ok=True)
        return
    if one.over.is_set():
        take(wish)
    else:
        st.fragment(_progress, run_every=OPENING_REFRESH_S)(one, wanted=True)


def show_opening_progress(one: DatasetOpening) -> None:
    """The draft's own dataset on its way: after a restart its bytes are looked at again."""
    st.fragment(_progress, run_every=OPENING_REFRESH_S)(one, wanted=False)


def _progress(one: DatasetOpening, wanted: bool) -> None:
    if one.over.is_set():
        st.rerun()
    done, words, left = one.progress
    wait = f", about {format_duration(left)} left" if left is not None else ""
    text = f":material/hourglass_top: Opening **{escape_text(one.label)}**: {escape_text(words)}, {format_share(round(done, 2))}{wait}"
    with st.container(border=True):
        st.progress(done, text=text)
        if wanted:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.caption("It goes on while you look at other pages; the former dataset stays in use until then.")
                if st.button("Don't open it", icon=":material/close:", type="tertiary", key="opening_cancel"):
                    cancel_opening(one)
                    _pending_file().unlink(missing_ok=True)
                    st.rerun()


def _pending_file() -> Path:
    return home_folder() / "opening.json"


def read_pending_dataset() -> PendingDataset | None:
    """What was chosen and is not there yet."""
    try:
        return PendingDataset.load(_pending_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):  # torn, or of another version
        _pending_file().unlink(missing_ok=True)
        return None
