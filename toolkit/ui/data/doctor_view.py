"""The dataset doctor on screen: what was found, which rows, why it matters, and one click to repair or to accept it.

The checks run in the background (`checkup.py` says how far they are); this looks at them every few seconds.
"""

from __future__ import annotations

import streamlit as st

from toolkit.data.doctor import accepted_findings
from toolkit.data.doctor.examinations import Examination, forget_examination
from toolkit.data.findings import Finding, Fix
from toolkit.data.storage import versions
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.settings import form_layout
from toolkit.ui.data import opening_view, table_view
from toolkit.ui.data.length_view import show_token_lengths
from toolkit.ui.data.version_view import show_version_line
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import error_boundary, show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_plural
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import Checkup, read_checkup

CHECKS_REFRESH_S = 3.0
WEIGHT_STYLES = {
    "serious": ("red", ":material/error:"),
    "warning": ("orange", ":material/warning:"),
    "note": ("gray", ":material/info:"),
}
WEIGHT_LABELS = {"serious": "serious", "warning": "worth a look", "note": "to know"}
CHECKED_PROBLEMS = (
    "missing cells, empty answers, duplicates, contradictions, test rows in training, wrong columns, garbled text"
)
_FAILED, _CHANGED, _EARLIER = "doctor_failed", "doctor_changed", "doctor_former"


def show_data_checks(table: Table) -> None:
    """The section of the Data page. It looks again by itself: templates are typed without a run of the page."""
    st.fragment(_show_checks, run_every=CHECKS_REFRESH_S)(table)


def show_findings_link(table: Table) -> None:
    """Beside the dataset's name: how many findings are open, and the way down to them."""
    st.fragment(_findings_link, run_every=CHECKS_REFRESH_S)(table)


def _findings_link(table: Table) -> None:
    with error_boundary():
        look = read_checkup(table)
        former = _earlier_findings(table) if look is not None and not look.examined.over else ()
        if former:
            st.caption(f":material/pending: {format_plural(len(former), 'finding')}, being checked again")
        elif look is not None and look.findings:
            colour, icon = WEIGHT_STYLES[look.findings[0].weight]
            words = f":{colour}[{icon} {format_plural(len(look.findings), 'finding')}]"
            if st.button(words, type="tertiary", key="to_findings", help="See what the checks found",
                         on_click=scroll.request_scroll, args=("doctor",)):  # fmt: skip
                st.rerun()


def _show_checks(table: Table) -> None:
    with error_boundary(), st.container(key="doctor"):
        look = read_checkup(table)
        show_version_line(table, "checks")
        _undo_fix_line(table)
        if look is None:
            st.caption(":material/pending: The data is checked once the templates and sizes can be used.")
        elif look.examined.error is not None:
            _show_failed_checks(look.examined)
        elif look.examined.report is None:
            share, words = look.examined.progress
            st.progress(share, text=f":gray[Checking the data: {words}]")
            _show_earlier_findings(table)
        else:
            _show_findings(table, look)
        if look is not None:
            show_token_lengths(look)


def _show_findings(table: Table, look: Checkup) -> None:
    failed = st.session_state.pop(_FAILED, None)
    if failed is not None:
        show_error(failed)
    now, seen = look.findings, look.seen
    st.session_state[_EARLIER] = (versions.original_sha256(table), now)
    if now:
        counts = [(weight, sum(f.weight == weight for f in now)) for weight in WEIGHT_STYLES]
        words = ", ".join(f"{number} {WEIGHT_LABELS[weight]}" for weight, number in counts if number)
        st.markdown(f"**{format_plural(len(now), 'finding')}** :gray[{words}]")
    elif look.counting:
        st.markdown(
            f":green[:material/check_circle: **Nothing was found so far.**] :gray[Looked for {CHECKED_PROBLEMS}.]"
        )
    else:
        what = "Nothing else was found." if seen else "Nothing was found."
        st.markdown(f":green[:material/check_circle: **{what}**] :gray[Looked for {CHECKED_PROBLEMS}.]")
    for finding in now:
        with st.container(border=True, gap="xsmall"):
            _show_finding(finding)
            _finding_buttons(table, finding)
    if seen:
        with st.expander(f"{format_plural(len(seen), 'finding')} accepted", icon=":material/visibility:"):
            for finding in seen:
                _show_finding(finding)
                _reopen_buttons(table, finding)
    for note in look.examined.report.notes if look.examined.report else ():
        st.caption(f":material/info: {escape_text(note, 300)}")


def _earlier_findings(table: Table) -> tuple[Finding, ...]:
    """What was open before the data changed, while its new version is being checked."""
    original, findings = st.session_state.get(_EARLIER, ("", ()))
    return findings if original == versions.original_sha256(table) else ()


def _show_earlier_findings(table: Table) -> None:
    findings = _earlier_findings(table)
    if not findings:
        return
    st.caption("Being checked again. Open before the last change:")
    for finding in findings:
        with st.container(border=True):
            icon = WEIGHT_STYLES[finding.weight][1]
            st.markdown(f":gray[{icon} **{escape_text(finding.title)}** {escape_text(finding.message, 600)}]")


def _show_finding(finding: Finding) -> None:
    colour, icon = WEIGHT_STYLES[finding.weight]
    st.markdown(
        f":{colour}[{icon}] **{escape_text(finding.title)}** {escape_text(finding.message, 600)} :gray[{escape_text(finding.why, 400)}]"
    )


def _finding_buttons(table: Table, finding: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for at, fix in enumerate(finding.fixes):
            if st.button(escape_text(fix.label, 80), key=f"fix:{finding.kind}:{at}", icon=":material/healing:"):
                _apply_fix(table, fix)
        _show_rows_button(table, finding)
        if st.button("I have seen this", key=f"accept:{finding.kind}", type="tertiary", icon=":material/visibility:",
                     help="Leave it as it is. Start tells what was accepted."):  # fmt: skip
            accepted_findings.accept_finding(finding, table, workspace.current_save_dir())
            st.rerun()


def _reopen_buttons(table: Table, finding: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _show_rows_button(table, finding)
        if st.button("Open again", key=f"reopen:{finding.kind}", type="tertiary", icon=":material/undo:"):
            accepted_findings.reopen_finding(finding, table, workspace.current_save_dir())
            st.rerun()


def _show_rows_button(table: Table, finding: Finding) -> None:
    if not finding.count:
        return
    label = "Show the row" if finding.count == 1 else f"Show the {finding.count:,} rows"
    if st.button(label, key=f"show:{finding.kind}", type="tertiary", icon=":material/table_rows:",
                 on_click=_go_to_rows, args=(table, finding)):  # fmt: skip
        st.rerun()


def _go_to_rows(table: Table, finding: Finding) -> None:
    table_view.show_only_rows(table, finding.title, finding.rows)
    st.session_state["row"] = int(finding.rows[0]) + 1
    scroll.request_scroll("dataset")


def _apply_fix(table: Table, fix: Fix) -> None:
    if fix.action in ("set", "template"):
        _apply_settings_fix(table, fix)
    else:
        try:
            with st.spinner("Making a new version of the data…"):
                here = versions.DatasetReference(
                    str(workspace.current_setting("data.file_type")), str(workspace.current_setting("data.path"))
                )
                made = versions.apply_fix(fix, table, here, workspace.current_save_dir())
                opening_view.request_dataset(made.file_type, made.path)
        except DataError as error:
            st.session_state[_FAILED] = error
        else:
            st.toast(f"{escape_text(fix.done)}.", icon=":material/check:")
    st.rerun()


def _apply_settings_fix(table: Table, fix: Fix) -> None:
    """Change settings of the draft, and keep what they were for Undo."""
    if fix.action == "template":
        path, text = fix.settings["path"], str(workspace.current_setting(fix.settings["path"]) or "")
        new: dict[str, object] = {path: text.replace(fix.settings["old"], fix.settings["new"]).strip(" ")}
    else:
        new = dict(fix.settings)
    before = {path: workspace.current_setting(path) for path in new}
    st.session_state[_CHANGED] = (versions.original_sha256(table), before, new)
    _set_settings(new)
    st.toast(f"{escape_text(fix.label)}: done.", icon=":material/check:")


def _set_settings(new: dict[str, object]) -> None:
    for path, value in new.items():
        workspace.set_setting(path, value)
    workspace.replace_templates(
        str(workspace.current_setting("data.prompt") or ""), str(workspace.current_setting("data.prompt_stub") or "")
    )


def _undo_fix_line(table: Table) -> None:
    """The way back from the last change of settings that a fix of this dataset made; gone once they changed again."""
    original, before, after = st.session_state.get(_CHANGED, ("", {}, {}))
    if original != versions.original_sha256(table) or any(
        workspace.current_setting(path) != value for path, value in after.items()
    ):
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        what = " and ".join(f"**{form_layout.get_field_layout(path).label}**" for path in before)
        st.caption(f":material/check: A fix changed {what}.", width="content")
        if st.button("Undo", key="doctor_undo", type="tertiary", icon=":material/undo:"):
            del st.session_state[_CHANGED]
            _set_settings(before)
            st.rerun()


def _show_failed_checks(one: Examination) -> None:
    if one.error is not None:
        show_error(one.error)
    if st.button("Check again", key="doctor_again", icon=":material/refresh:"):
        forget_examination(one.key)
        st.rerun()
