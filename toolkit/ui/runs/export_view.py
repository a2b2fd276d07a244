"""Export of a finished run: one card per export format with its state, its parity certificate and usage instructions.

An export runs in a process of its own and does not depend on the page; the cards refresh while one is running.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.export.export_forms import EXPORT_FORMS
from toolkit.export.export_process import start_export
from toolkit.export.export_state import ExportState, read_export_state
from toolkit.export.hub_push import read_hub_state
from toolkit.export.parity_certificate import Certificate
from toolkit.export.prompt_contract import PromptContract, read_reference_contract
from toolkit.export.usage_recipes import list_usage_recipes
from toolkit.runs.run_dir import RunDir, read_run_config
from toolkit.system.printable import format_bytes
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import error_boundary, show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.frame import page
from toolkit.ui.runs.hub_view import draw_hub_push

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
            "Each export answers the golden prompts that the run answered when it finished. *Same*: token ids, "
            "log-probabilities and answers are equal. *Close*: they differ by no more than rounding changes this "
            "model, which is measured. *Different*: do not use the export."
        )
        _start_requested(run)
        is_running = _is_running(run, [_read_state(run, form) for form in EXPORT_FORMS])
        st.fragment(_draw_cards, run_every=EXPORT_REFRESH_SECONDS if is_running else None)(run.path, is_running)


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


def _draw_cards(path: Path, was_running: bool) -> None:
    with error_boundary():
        run = RunDir(path)
        states = [_read_state(run, form) for form in EXPORT_FORMS]
        if _is_running(run, states) is not was_running:
            st.rerun()  # only the page can change how often the fragment refreshes
        grid = st.grid(min_column_width=240)
        for state in states:
            with grid.cell(), st.container(border=True, height="stretch"):
                _draw_card(run, state)
        draw_hub_push(run, [state.form for state in states if state.state == "passed"])


def _is_running(run: RunDir, states: list[ExportState]) -> bool:
    return read_hub_state(run).state == "running" or any(state.state == "running" for state in states)


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
        st.progress(state.fraction, text=escape_text(state.phase.capitalize()))
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


def _draw_verdict(certificate: Certificate) -> None:
    if certificate.summary:
        st.caption(f"{escape_text(certificate.summary, 400)}.")
    for check in certificate.failures:
        st.caption(f":red[:material/close: {escape_text(check.name)}]: {escape_text(check.detail, 400)}")


def _draw_buttons(run: RunDir, state: ExportState) -> None:
    form = state.form.key
    with st.container(horizontal=True, gap="small"):
        needs_export = state.folder is None or state.state in ("broken", "failed")
        if needs_export and st.button("Export", key=f"make_{form}", icon=":material/play_arrow:"):
            _start_export(run, form)
        if state.folder is None:
            return
        archive = next(iter(state.folder.glob("*.zip")), None)
        if archive is not None and state.state == "passed":
            st.download_button(
                f"Download ({format_bytes(archive.stat().st_size)})",
                archive.read_bytes,
                file_name=archive.name,
                mime="application/zip",
                icon=":material/download:",
                on_click="ignore",
                key=f"zip_{form}",
            )
        with st.popover("How to use it", icon=":material/code:", width="content"):
            _draw_usage(run, state)
        with st.popover("Verification", icon=":material/fact_check:", width="content"):
            _draw_certificate(run, state)


def _start_export(run: RunDir, form: str, *, check_only: bool = False) -> None:
    try:
        with st.spinner("Starting…"):
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
