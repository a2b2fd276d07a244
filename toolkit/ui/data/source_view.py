"""Choice of the dataset: a bundled sample, an upload, a path on this machine, or a Hugging Face dataset ID."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import streamlit as st

from toolkit.config import BUNDLED
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, ReadOptions, UnreadableError
from toolkit.data.readers.formats import FORMAT_NAMES, file_type_of
from toolkit.data.storage.stored_names import original_file_name
from toolkit.data.storage.uploads import list_read_uploads
from toolkit.errors import DataError
from toolkit.field_types import find_path_error
from toolkit.settings.form_layout import get_field_layout
from toolkit.system.printable import format_plural
from toolkit.ui.data import opening_view
from toolkit.ui.data.opening_view import PendingDataset
from toolkit.ui.data.reading_view import offer_read_options
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.large_uploads import keep_upload
from toolkit.ui.workspace import workspace

SAMPLE_DATASETS = (
    ("csv", BUNDLED + "orders.csv", "Orders", "messages to a shop, each with its order as JSON"),
    ("json", BUNDLED + "tickets.json", "Tickets", "messages to a help desk, each with one of six categories"),
)  # fmt: skip
MAX_LISTED_UPLOADS = 8
HUB_OPTIONS = ("hub_config", "hub_split", "hub_revision")
SOURCE_LABELS = {
    "sample": ":material/dataset: Samples and recent files",
    "upload": ":material/upload: Upload",
    "path": ":material/folder_open: Path",
    "hub": ":material/hub: Hugging Face",
}


def choose_source() -> bool:
    """Draw the choice of a source and its widget; the chosen dataset goes into the draft.

    Returns whether the user has to choose how to read a file first.
    """
    st.session_state.setdefault("source_way", _source_of_draft())
    source = st.segmented_control(
        "Data source",
        list(SOURCE_LABELS),
        format_func=SOURCE_LABELS.__getitem__,
        key="source_way",
        required=True,
        persist_state="session",
    )
    {"sample": _sample_buttons, "upload": _upload_box, "path": _path_form, "hub": _hub_form}[source or "sample"]()
    opening_view.show_pending_dataset(_use_pending_dataset)
    failed = st.session_state.get("source_error")
    if failed is not None:
        show_error(failed)
        requested = st.session_state.get("source_wanted")
        if isinstance(failed, UnreadableError) and requested is not None:
            file_type, path = requested
            offer_read_options(failed.offers, lambda options: _use_dataset(file_type, path, options))
            if failed.offers:
                previous = workspace.current_table()
                st.button(
                    f"Keep {escape_text(previous.label, 60) if previous else 'the previous dataset'}",
                    icon=":material/undo:",
                    type="tertiary",
                    on_click=_forget_failure,
                )
                return True
    return False


def _forget_failure() -> None:
    st.session_state.pop("source_error", None)


def _source_of_draft() -> str:
    pending = opening_view.read_pending_dataset()
    path = pending.path if pending else str(workspace.current_setting("data.path"))
    if path.startswith(BUNDLED):
        return "sample"
    if (pending.file_type if pending else workspace.current_setting("data.file_type")) == "huggingface":
        return "hub"
    return "upload" if (workspace.current_save_dir() / "uploads") in Path(path).parents else "path"


def reread_dataset(options: ReadOptions) -> None:
    """Read the draft's dataset again with these reading options."""
    test_path = workspace.current_setting("data.test_path")
    _use_dataset(
        str(workspace.current_setting("data.file_type")),
        str(workspace.current_setting("data.path")),
        options,
        test_path,
    )


def _use_dataset(
    file_type: str, path: str, options: ReadOptions | None = DEFAULT_READ_OPTIONS, test_path: str | None = None
) -> None:
    st.session_state.pop("source_error", None)
    try:
        with st.spinner("Reading the data…"):
            is_open = opening_view.request_dataset(file_type, path, options, test_path)
    except DataError as error:
        st.session_state["source_error"], st.session_state["source_wanted"] = error, (file_type, path)
    else:
        if is_open:
            st.session_state.pop("row", None)
    st.rerun()


def _use_pending_dataset(pending: PendingDataset) -> None:
    _use_dataset(pending.file_type, pending.path, pending.options, pending.test_path)


def _sample_buttons() -> None:
    samples = [(file_type, path, title) for file_type, path, title, _ in SAMPLE_DATASETS]
    uploads = list_read_uploads(workspace.current_save_dir())[:MAX_LISTED_UPLOADS]
    recent = [(file_type_of(path), str(path), original_file_name(path)) for path in uploads]
    chosen = workspace.current_setting("data.path")
    with st.container(horizontal=True, gap="small"):
        for file_type, path, title in (*samples, *recent):
            in_use = path == chosen
            label = f"{escape_text(title, 60)} (in use)" if in_use else f"Use {escape_text(title, 60)}"
            icon = ":material/check:" if in_use else None
            if st.button(label, key=f"sample_{path}", disabled=in_use, icon=icon):
                _use_dataset(file_type, path)
    st.caption(" ".join(f"**{title}**: {description}." for *_, title, description in SAMPLE_DATASETS))


def _upload_box() -> None:
    """Draw the box for a file of any kind: what can't be read is refused below with the reason, not inside the box."""
    turn = st.session_state.setdefault("upload_turn", 0)
    limit = int(st.get_option("server.maxUploadSize"))
    max_size = f"{limit / 1024:g} GB" if limit >= 1024 else f"{limit} MB"
    uploaded = st.file_uploader(
        f"A {FORMAT_NAMES} file, up to {max_size}",
        key=f"upload_{turn}",
        help="The file is stored in the workspace folder and stays on this machine. For a larger file, choose Path.",
    )
    if uploaded is None:
        return
    # a new key clears the widget: the file is stored on disk below, and should not stay in the server's memory as well
    st.session_state["upload_turn"] = turn + 1
    try:
        stored = keep_upload(uploaded, workspace.current_save_dir())
    except DataError as error:
        st.session_state["source_error"] = error
        st.rerun()
    if str(stored) == str(workspace.current_setting("data.path")):
        st.toast("This file is already in use. It was read again, but not stored twice.", icon=":material/info:")
    _use_dataset(file_type_of(stored), str(stored), DEFAULT_READ_OPTIONS)


def _path_form() -> None:
    with st.form("path_form", border=False):
        row = st.columns([5, 1], vertical_alignment="bottom")
        typed = row[0].text_input(
            f"Path to a {FORMAT_NAMES} file on the machine that runs this app",
            value="" if _source_of_draft() != "path" else str(workspace.current_setting("data.path")),
            placeholder="/data/orders.csv",
        )
        if row[1].form_submit_button("Open", icon=":material/folder_open:", width="stretch") and (typed or "").strip():
            path = (typed or "").strip()
            path = path if find_path_error(path) else str(Path(path).expanduser())
            _use_dataset(file_type_of(Path(path)), path)


def _hub_form() -> None:
    with st.form("hub_form", border=False):
        row = st.columns([5, 1], vertical_alignment="bottom")
        typed = row[0].text_input(
            "Hugging Face dataset ID",
            placeholder="owner/name",
            value=str(workspace.current_setting("data.path")) if _source_of_draft() == "hub" else "",
            help="Downloaded once, then read from this machine. The other data sources do not use the network. A gated "
            "or private dataset needs HF_TOKEN in the environment of the app.",
        )
        named = {
            name: column.text_input(
                get_field_layout(f"data.{name}").label,
                value=str(workspace.current_setting(f"data.{name}") or "") if _source_of_draft() == "hub" else "",
                placeholder=get_field_layout(f"data.{name}").empty,
            )
            for name, column in zip(HUB_OPTIONS, st.columns(3), strict=True)
        }
        if (
            row[1].form_submit_button("Open", icon=":material/cloud_download:", width="stretch")
            and (typed or "").strip()
        ):
            _use_dataset("huggingface", (typed or "").strip(), _hub_options(named))


def _hub_options(typed: Mapping[str, str]) -> ReadOptions:
    config, split, revision = (typed[name].strip() or None for name in HUB_OPTIONS)
    return ReadOptions(hub_config=config, hub_split=split, hub_revision=revision)


def show_source_line(label: str, rows: int, columns: int) -> None:
    """Draw the name and size of the dataset in use."""
    size = f":gray-badge[{format_plural(rows, 'row')}] :gray-badge[{format_plural(columns, 'column')}]"
    st.markdown(f":material/database: **{escape_text(label)}** {size}", width="content")
