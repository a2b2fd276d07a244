"""Export of a finished run: one card per export format with its state, its parity certificate and usage instructions.

An export runs in a process of its own and does not depend on the page; its progress refreshes while it is running.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.export.adapter_archive import MAX_DOWNLOAD_BYTES, measure_adapter_download, zip_adapter, zip_export
from toolkit.export.export_forms import EXPORT_FORMS, ExportForm
from toolkit.export.export_process import start_export
from toolkit.export.export_state import ExportState, read_export_state
from toolkit.export.hub_push import read_hub_state
from toolkit.export.parity_certificate import Certificate
from toolkit.export.prompt_contract import PromptContract, read_reference_contract
from toolkit.export.usage_recipes import list_usage_recipes
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.printable import format_bytes, make_file_stem
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import error_boundary, show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.frame import page
from toolkit.ui.people.made_files import draw_made_download
from toolkit.ui.runs.export_ladder import draw_ladder
from toolkit.ui.runs.hub_view import draw_hub_push
from toolkit.ui.workspace.run_facts import read_run_summary

EXPORT_REFRESH_SECONDS = 0.7
FIRST_FORM = "adapter"
"""The form that is exported as soon as an export is asked for: it is small, and the others build on the same run."""
_EXPANDED_RUN, _REQUESTED_RUN = "exports_open", "export_requested"
EXPORT_BADGES = {
    "none": ("Not exported", ":material/radio_button_unchecked:", "gray"),
    "running": ("Exporting", ":material/hourglass_top:", "blue"),
    "same": ("Verified: same", ":material/verified:", "green"),
    "close": ("Verified: close", ":material/verified:", "green"),
    "different": ("Verification failed: different", ":material/gpp_bad:", "red"),
    "unchecked": ("Not verified", ":material/help:", "orange"),
    "failed": ("Export failed", ":material/error:", "red"),
}


def draw_export_section(run: RunDir) -> None:
    """Draw the export section of a run with a card per format."""
    opened, turn = st.session_state.get(_EXPANDED_RUN, ("", 0))
    # a new key for each request: the browser keeps an expander as the user left it
    with (
        st.container(key=f"export_{run.id}"),
        st.expander("Export", icon=":material/ios_share:", key=f"exports_{turn}_{run.id}", expanded=opened == run.id),
    ):
        st.caption(
            "Each export is verified: it answers again what the run answered when it finished (golden prompts). "
            "*Same*: token ids, log-probabilities and answers are equal. *Close*: they differ by no more than rounding "
            "changes this model, which is measured. *Different*: do not use the export."
        )
        _start_requested(run)
        states = [_read_state(run, form) for form in EXPORT_FORMS]
        grid = st.grid(3, min_column_width=240)
        for state in states:
            with grid.cell(), st.container(border=True, height="stretch"):
                _draw_card(run, state)
        draw_ladder(run, states)
        is_pushing = read_hub_state(run).state == "running"
        forms = [state.form for state in states if state.state == "passed"]
        st.fragment(_draw_push, run_every=EXPORT_REFRESH_SECONDS if is_pushing else None)(run.path, forms, is_pushing)


def open_exports(run: RunDir) -> NoReturn:
    """Go to the Runs page with this run's export section in view; the adapter is exported if there is no export yet."""
    st.session_state[_REQUESTED_RUN] = run.id
    st.session_state[_EXPANDED_RUN] = (run.id, st.session_state.get(_EXPANDED_RUN, ("", 0))[1] + 1)
    scroll.request_scroll(f"export_{run.id}")
    page.go_to_page("runs", run.id)


def _start_requested(run: RunDir) -> None:
    if st.session_state.get(_REQUESTED_RUN) != run.id:
        return
    del st.session_state[_REQUESTED_RUN]
    if all(_read_state(run, form).state == "none" for form in EXPORT_FORMS):
        _start_export(run, FIRST_FORM)


def _draw_push(path: Path, forms: Sequence[ExportForm], was_running: bool) -> None:
    with error_boundary():
        run = RunDir(path)
        if (read_hub_state(run).state == "running") is not was_running:
            st.rerun()  # only the page can change how often the fragment refreshes
        draw_hub_push(run, forms)


def _read_state(run: RunDir, form: str) -> ExportState:
    try:
        return read_export_state(run, form)
    except ToolkitError as error:
        return ExportState(EXPORT_FORMS[form], "failed", message=error.message, hint=error.hint)


def _draw_card(run: RunDir, state: ExportState) -> None:
    st.markdown(f"**{state.form.title}**")
    st.caption(state.form.what)
    label, icon, color = EXPORT_BADGES[state.certificate.verdict if state.certificate else state.state]
    st.badge(label, icon=icon, color=color)  # type: ignore[arg-type]
    if state.state == "running":
        # the progress alone refreshes: a download button that is drawn anew loses the file that it is about to send
        st.fragment(_draw_progress, run_every=EXPORT_REFRESH_SECONDS)(run.path, state.form.key)
        if state.form.key == FIRST_FORM:
            _draw_adapter_download(run)
        return
    if state.state == "failed":
        st.caption(f":red[{escape_text(state.message, 500)}] {escape_text(state.hint, 500)}")
    if state.certificate is not None:
        _draw_verdict(state.certificate)
    if state.without_main_file:
        st.caption(
            f"{escape_text(state.without_main_file, 500)} *How to use it* has the commands to convert the model."
        )
    _draw_buttons(run, state)


def _draw_progress(path: Path, form: str) -> None:
    with error_boundary():
        state = _read_state(RunDir(path), form)
        if state.state != "running":
            st.rerun()
        st.progress(state.fraction, text=escape_text(state.phase.capitalize()))


def _draw_verdict(certificate: Certificate) -> None:
    if certificate.summary:
        st.caption(f"{escape_text(certificate.summary, 400)}.")
    for check in certificate.failures:
        st.caption(f":red[:material/close: {escape_text(check.name)}]: {escape_text(check.detail, 400)}")


def _draw_buttons(run: RunDir, state: ExportState) -> None:
    form = state.form.key
    with st.container(horizontal=True, gap="small"):
        if state.folder is None and form == FIRST_FORM:
            _draw_adapter_download(run)
        needs_export = state.folder is None or state.state in ("broken", "failed")
        if needs_export and st.button("Export", key=f"make_{form}", icon=":material/play_arrow:"):
            _start_export(run, form)
        if state.folder is None:
            return
        if state.state == "passed":
            _draw_download(run, state.form, state.bytes, partial(zip_export, state.folder), str(state.folder))
        with st.popover("How to use it", icon=":material/code:", width="content"):
            _draw_usage(run, state)
        with st.popover("Verification", icon=":material/fact_check:", width="content"):
            _draw_certificate(run, state)


def _draw_adapter_download(run: RunDir) -> None:
    """Draw the download of the adapter before its export is there; a click starts the export, which is verified."""
    if size := measure_adapter_download(run):
        _draw_download(run, EXPORT_FORMS[FIRST_FORM], size, partial(zip_adapter, run), str(run.adapter_dir))


def _draw_download(run: RunDir, form: ExportForm, size: int, make: Callable[[], bytes], folder: str) -> None:
    """Draw the one button that downloads a form as a zip. make: returns the zip when the button is pressed."""
    if size > MAX_DOWNLOAD_BYTES:
        st.caption(f"{format_bytes(size)}: too large for a download. Copy the folder {escape_text(folder, 500)}.")
        return
    draw_made_download(
        f"Download ({format_bytes(size)})",
        make,
        f"{make_file_stem(read_run_summary(run).name, 60) or run.id}-{form.key}.zip",
        "application/zip",
        icon=":material/download:",
        on_click=partial(_verify_download, run, form.key),
        key=f"zip_{form.key}",
    )


def _verify_download(run: RunDir, form: str) -> None:
    """Start the export of what was downloaded without one, so that its verification follows."""
    with suppress(ToolkitError):  # the card shows why it failed
        if _read_state(run, form).state == "none":
            start_export(run, form)


def _start_export(run: RunDir, form: str, *, check_only: bool = False) -> None:
    try:
        with st.spinner("Starting the export…"):
            start_export(run, form, check_only=check_only)
    except ToolkitError as error:
        show_error(error)
        return
    st.rerun()


def _draw_usage(run: RunDir, state: ExportState) -> None:
    """Draw the folder of the export, and ready commands and code that use the run's own prompt format."""
    contract = _read_contract(run)
    chat = contract.chat if contract is not None else False
    st.markdown("**Folder**")
    st.code(str(state.folder), language=None, wrap_lines=True)
    for recipe in list_usage_recipes(run, read_run_config(run), state.form, str(state.folder), chat=chat):
        st.markdown(f"**{recipe.title}**")
        st.code(recipe.text, language=recipe.language, wrap_lines=True)


def _read_contract(run: RunDir) -> PromptContract | None:
    try:
        return read_reference_contract(run)
    except ToolkitError as error:
        show_error(error)
        return None


def _draw_certificate(run: RunDir, state: ExportState) -> None:
    """Draw the checks of the certificate, and up to three answers that differ."""
    certificate = state.certificate
    if certificate is None:
        st.caption("This export has not been verified yet.")
    else:
        for check in certificate.checks:
            mark = ":green[:material/check:]" if check.passed else ":red[:material/close:]"
            st.markdown(f"{mark} **{escape_text(check.name)}** {escape_text(check.detail, 400)}")
        for row in [row for row in certificate.rows if not row.answer_equal][:3]:
            st.caption(f"Row {row.row}: expected answer, then the answer of the export")
            text_block(row.expected)
            text_block(row.got)
    if st.button("Verify again", key=f"check_{state.form.key}", icon=":material/replay:"):
        _start_export(run, state.form.key, check_only=True)
