"""Choosing the dataset: bundled samples, an upload, a path on this machine, or a Hugging Face id."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from toolkit.config import BUNDLED
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, ReadOptions, UnreadableError
from toolkit.errors import DataError
from toolkit.field_types import find_path_error
from toolkit.ui.data import opening_view
from toolkit.ui.data.opening_view import PendingDataset
from toolkit.ui.data.reading_view import offer_read_options
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.large_uploads import keep_upload
from toolkit.ui.elements.words import format_plural
from toolkit.ui.workspace import workspace

SAMPLE_DATASETS = (
    ("csv", BUNDLED + "orders.csv", "Orders", ":material/shopping_cart:",
     "Messages to a shop, and the order in them as JSON. The demo model learns it in about a minute."),
    ("json", BUNDLED + "tickets.json", "Tickets", ":material/support_agent:",
     "Messages to a help desk, and which of six categories each belongs to."),
)  # fmt: skip
SOURCE_LABELS = {
    "sample": ":material/dataset: Sample",
    "upload": ":material/upload: Upload",
    "path": ":material/folder_open: Path",
    "hub": ":material/hub: Hugging Face",
}


def choose_source() -> None:
    """One row to choose by, and the chosen way's own widget below; the outcome goes into the draft."""
    st.session_state.setdefault("source_way", _source_of_draft())
    way = st.segmented_control(
        "Where is the data?", list(SOURCE_LABELS), format_func=SOURCE_LABELS.__getitem__, key="source_way", required=True,
        persist_state="session",
    )  # fmt: skip
    {"sample": _sample_buttons, "upload": _upload_box, "path": _path_form, "hub": _hub_form}[way or "sample"]()
    opening_view.show_pending_dataset(_take_pending)
    failed = st.session_state.get("source_error")
    if failed is not None:
        show_error(failed)
        wanted = st.session_state.get("source_wanted")
        if isinstance(failed, UnreadableError) and wanted is not None:
            file_type, path = wanted
            offer_read_options(failed.offers, lambda options: _take_dataset(file_type, path, options))


def _source_of_draft() -> str:
    wish = opening_view.read_pending_dataset()
    path = wish.path if wish else str(workspace.current_setting("data.path"))
    if path.startswith(BUNDLED):
        return "sample"
    if (wish.file_type if wish else workspace.current_setting("data.file_type")) == "huggingface":
        return "hub"
    return "upload" if (workspace.current_save_dir() / "uploads") in Path(path).parents else "path"


def reread_dataset(options: ReadOptions) -> None:
    """The draft's own dataset once more, read as `options` say."""
    test_path = workspace.current_setting("data.test_path")
    _take_dataset(
        str(workspace.current_setting("data.file_type")),
        str(workspace.current_setting("data.path")),
        options,
        test_path,
    )


def _take_dataset(
    file_type: str, path: str, options: ReadOptions | None = DEFAULT_READ_OPTIONS, test_path: str | None = None
) -> None:
    st.session_state.pop("source_error", None)
    try:
        with st.spinner("Reading the data…"):
            there = opening_view.request_dataset(file_type, path, options, test_path)
    except DataError as error:
        st.session_state["source_error"], st.session_state["source_wanted"] = error, (file_type, path)
    else:
        if there:
            st.session_state.pop("row", None)
    st.rerun()


def _take_pending(wish: PendingDataset) -> None:
    _take_dataset(wish.file_type, wish.path, wish.options, wish.test_path)


def _sample_buttons() -> None:
    chosen = workspace.current_setting("data.path")
    for column, (file_type, path, title, icon, words) in zip(st.columns(2), SAMPLE_DATASETS, strict=True):
        with column.container(border=True, height="stretch"):
            st.markdown(f"{icon} **{title}**")
            st.caption(words)
            used = path == chosen
            label = "In use" if used else f"Use {title}"
            if st.button(label, key=f"sample_{title}", disabled=used, icon=":material/check:" if used else None):
                _take_dataset(file_type, path)


def _upload_box() -> None:
    turn = st.session_state.setdefault("upload_turn", 0)
    limit = int(st.get_option("server.maxUploadSize"))
    most = f"{limit / 1024:g} GB" if limit >= 1024 else f"{limit} MB"
    given = st.file_uploader(
        f"A CSV, JSON (array of objects), JSONL or Parquet file, up to {most}",
        type=["csv", "tsv", "json", "jsonl", "parquet"], key=f"upload_{turn}",
        help="The file is kept in the workspace folder and read on this machine alone. Larger ones: choose Path.",
    )  # fmt: skip
    if given is None:
        return
    # a new key drops the widget's value: the file is on disk now, and must not stay in the server's memory too
    st.session_state["upload_turn"] = turn + 1
    try:
        stored = keep_upload(given, workspace.current_save_dir())
    except DataError as error:
        st.session_state["source_error"] = error
        st.rerun()
    if str(stored) == str(workspace.current_setting("data.path")):
        st.toast("The same file is in use already: it was kept once, and read again.", icon=":material/info:")
    _take_dataset("csv" if stored.suffix.lower() in (".csv", ".tsv") else "json", str(stored), DEFAULT_READ_OPTIONS)


def _path_form() -> None:
    with st.form("path_form", border=False):
        row = st.columns([5, 1], vertical_alignment="bottom")
        typed = row[0].text_input(
            "Path of a CSV, JSON, JSONL or Parquet file on the machine that runs this app",
            value="" if _source_of_draft() != "path" else str(workspace.current_setting("data.path")), placeholder="/data/orders.csv",
        )  # fmt: skip
        if row[1].form_submit_button("Open", icon=":material/folder_open:", width="stretch") and (typed or "").strip():
            path = (typed or "").strip()
            path = path if find_path_error(path) else str(Path(path).expanduser())
            _take_dataset("csv" if path.lower().endswith((".csv", ".tsv", ".txt")) else "json", path)


def _hub_form() -> None:
    with st.form("hub_form", border=False):
        row = st.columns([5, 1], vertical_alignment="bottom")
        typed = row[0].text_input(
            "Dataset id on the Hugging Face hub", placeholder="owner/name",
            value=str(workspace.current_setting("data.path")) if _source_of_draft() == "hub" else "",
            help="It is downloaded once, then read from this machine. Nothing else here talks to the network.",
        )  # fmt: skip
        if (
            row[1].form_submit_button("Open", icon=":material/cloud_download:", width="stretch")
            and (typed or "").strip()
        ):
            _take_dataset("huggingface", (typed or "").strip())


def show_source_line(label: str, rows: int, columns: int) -> None:
    """What is in use now, in one line."""
    size = f":gray-badge[{format_plural(rows, 'row')}] :gray-badge[{format_plural(columns, 'column')}]"
    st.markdown(f":material/database: **{escape_text(label)}** {size}", width="content")
