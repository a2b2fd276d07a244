"""Taking a finished run's model away: each form as a card with its state, its certificate and the lines to use it.

An export is made by a process of its own and goes on whatever happens to the page; the cards tick while one is going.
"""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.export.export_process import start_export
from toolkit.export.export_state import FORMS, ExportState, export_state
from toolkit.export.hub_push import hub_state
from toolkit.export.parity_certificate import Certificate
from toolkit.export.prompt_contract import Contract, reference
from toolkit.export.usage_recipes import GGUF, recipes
from toolkit.runs.run_dir import RunDir, read_config
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import boundary, show_error
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import size
from toolkit.ui.examples.prompt_view import text_block
from toolkit.ui.frame import page
from toolkit.ui.runs.hub_view import push_row

PERIOD_S = 0.7
_OPEN = "exports_open"
BADGES = {
    "none": ("Not made yet", ":material/radio_button_unchecked:", "gray"),
    "running": ("Being made", ":material/hourglass_top:", "blue"),
    "passed": ("Answers as the run did", ":material/verified:", "green"),
    "broken": ("Broken: don't use it", ":material/gpp_bad:", "red"),
    "unchecked": ("Not checked", ":material/help:", "orange"),
    "failed": ("Not made", ":material/error:", "red"),
}


def export_section(run: RunDir) -> None:
    """All forms of a run's export."""
    opened = st.session_state.get(_OPEN) == run.id
    with st.expander("Export", icon=":material/ios_share:", key=f"export_{run.id}", expanded=opened):
        st.caption(
            "Each export is played against golden prompts that were answered when the run finished: token ids, "
            "log-probabilities and answers must be the same, or the export is marked broken."
        )
        going = _going(run, [_state(run, form) for form in FORMS])
        st.fragment(_cards, run_every=PERIOD_S if going else None)(run.path, going)


def open_exports(run: RunDir) -> NoReturn:
    """Go to the run's page, where its exports then stand open."""
    st.session_state[_OPEN] = run.id
    scroll.ask(f"export_{run.id}")
    page.go("runs", run.id)


def _cards(path: Path, going: bool) -> None:
    with boundary():
        run = RunDir(path)
        states = [_state(run, form) for form in FORMS]
        if _going(run, states) is not going:
            st.rerun()  # the fragment ticks only while something is being made
        grid = st.grid(min_column_width=240)
        for state in states:
            with grid.cell(), st.container(border=True, height="stretch"):
                _card(run, state)
        push_row(run, [state.form for state in states if state.state == "passed"])


def _going(run: RunDir, states: list[ExportState]) -> bool:
    return any(state.state == "running" for state in (*states, hub_state(run)))


def _state(run: RunDir, form: str) -> ExportState:
    try:
        return export_state(run, form)
    except ToolkitError as error:
        return ExportState(FORMS[form], "failed", message=error.message, hint=error.hint)


def _card(run: RunDir, state: ExportState) -> None:
    st.markdown(f"**{state.form.title}**")
    st.caption(state.form.what)
    word, icon, colour = BADGES[state.state]
    st.badge(word, icon=icon, color=colour)  # type: ignore[arg-type]
    if state.state == "running":
        st.progress(state.fraction, text=plain(state.phase.capitalize()))
        return
    if state.state == "failed":
        st.caption(f":red[{plain(state.message, 500)}] {plain(state.hint, 500)}")
    if state.certificate is not None:
        _verdict(state.certificate)
    if state.form.key == "gguf" and state.folder is not None and not (state.folder / GGUF).exists():
        st.caption("llama.cpp's converter is not installed here: the commands to convert it are under *Use it*.")
    _buttons(run, state)


def _verdict(certificate: Certificate) -> None:
    if certificate.passed:
        tokens = next((check.detail for check in certificate.checks if check.name == "token ids identical"), "")
        st.caption(f"{plain(tokens)} identical; drift {certificate.drift:.3g}, allowed {certificate.bound:g}.")
        return
    for check in certificate.failures:
        st.caption(f":red[:material/close: {plain(check.name)}]: {plain(check.detail, 400)}")


def _buttons(run: RunDir, state: ExportState) -> None:
    form = state.form.key
    with st.container(horizontal=True, gap="small"):
        wanted = state.folder is None or state.state in ("broken", "failed")
        if wanted and st.button("Make it", key=f"make_{form}", icon=":material/play_arrow:", type="primary"):
            _start(run, form)
        if state.folder is None:
            return
        archive = next(iter(state.folder.glob("*.zip")), None)
        if archive is not None and state.state == "passed":
            st.download_button(
                f"Download ({size(archive.stat().st_size)})", archive.read_bytes, file_name=archive.name,
                mime="application/zip", icon=":material/download:", on_click="ignore", key=f"zip_{form}",
            )  # fmt: skip
        with st.popover("Use it", icon=":material/code:", width="content"):
            _use(run, state)
        with st.popover("Checks", icon=":material/fact_check:", width="content"):
            _certificate(run, state)


def _start(run: RunDir, form: str, *, check_only: bool = False) -> None:
    try:
        with st.spinner("Starting…"):
            start_export(run, form, check_only=check_only)
    except ToolkitError as error:
        show_error(error)
        return
    st.rerun()


def _use(run: RunDir, state: ExportState) -> None:
    """Ready lines, in the run's own prompt form."""
    contract = _contract(run)
    chat = contract.chat if contract is not None else False
    st.markdown("**Where it is**")
    st.code(str(state.folder), language=None, wrap_lines=True)
    for one in recipes(run, read_config(run), state.form, str(state.folder), chat=chat):
        st.markdown(f"**{one.title}**")
        st.code(one.text, language=one.language, wrap_lines=True)


def _contract(run: RunDir) -> Contract | None:
    try:
        return reference(run)
    except ToolkitError as error:
        show_error(error)
        return None


def _certificate(run: RunDir, state: ExportState) -> None:
    """Check by check, and answer by answer where one differs."""
    certificate = state.certificate
    if certificate is None:
        st.caption("It has not been played since it was made.")
    else:
        for check in certificate.checks:
            mark = ":green[:material/check:]" if check.passed else ":red[:material/close:]"
            st.markdown(f"{mark} **{plain(check.name)}** {plain(check.detail, 400)}")
        for row in [row for row in certificate.rows if not row.answer_equal][:3]:
            st.caption(f"Row {row.row}: expected, and what came instead")
            text_block(row.expected)
            text_block(row.got)
    if st.button("Check again", key=f"check_{state.form.key}", icon=":material/replay:"):
        _start(run, state.form.key, check_only=True)
