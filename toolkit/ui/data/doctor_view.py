"""Data checks on the Data page: the findings, their rows and reasons, and buttons to fix or accept each of them.

The checks run in the background; this section reads their state every few seconds.
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
from toolkit.system.printable import format_plural
from toolkit.ui.data import opening_view, table_view
from toolkit.ui.data.length_view import show_token_lengths
from toolkit.ui.data.version_view import show_version_line
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import error_boundary, show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.lasting_button import lasting_button
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import Checkup, read_checkup

CHECKS_REFRESH_S = 3.0
"""Seconds between refreshes: editing a template restarts the checks without a rerun of the page."""
WEIGHT_STYLES = {
    "serious": ("red", ":material/error:"),
    "warning": ("orange", ":material/warning:"),
    "note": ("gray", ":material/info:"),
}
WEIGHT_LABELS = {"serious": "serious", "warning": "to review", "note": "for information"}
MIN_KEPT_SHARE = 0.5
"""A fix that keeps a smaller share of the rows asks first."""
_FAILED, _CHANGED, _EARLIER, _ASKED = "doctor_failed", "doctor_changed", "doctor_former", "doctor_asked"


def show_data_checks(table: Table) -> None:
    """Draw the section with the data checks, refreshed every few seconds."""
    st.fragment(_show_checks, run_every=CHECKS_REFRESH_S)(table)


def draw_findings_link(table: Table, checkup: Checkup | None) -> None:
    """Draw the number of open findings as a link to them; draw that the checks are running or found nothing."""
    earlier = _earlier_findings(table) if checkup is not None and not checkup.examined.over else ()
    if earlier:
        st.caption(f":material/pending: {format_plural(len(earlier), 'finding')}, checking again", width="content")
    elif checkup is not None and checkup.findings:
        color, icon = WEIGHT_STYLES[checkup.findings[0].weight]
        label = f":{color}[{icon} {format_plural(len(checkup.findings), 'finding')}]"
        if st.button(
            label,
            type="tertiary",
            key="to_findings",
            help="Go to the findings of the data checks.",
            on_click=scroll.request_scroll,
            args=("doctor",),
        ):
            st.rerun()
    elif checkup is not None and not checkup.examined.over:
        st.caption("checking the data", width="content")
    elif checkup is not None and checkup.examined.report is not None:
        st.caption("no findings", width="content")


def _show_checks(table: Table) -> None:
    with error_boundary(), st.container(key="doctor"):
        checkup = read_checkup(table)
        show_version_line(table, "checks")
        _undo_fix_line(table)
        if checkup is None:
            st.caption(":material/pending: The data checks start as soon as the templates and split sizes are valid.")
        elif checkup.examined.error is not None:
            _show_failed_checks(checkup.examined)
        elif checkup.examined.report is None:
            share, step = checkup.examined.progress
            st.progress(share, text=f":gray[Checking the data: {step}]")
            _show_earlier_findings(table)
        else:
            _show_findings(table, checkup)
        if checkup is not None:
            show_token_lengths(checkup)


def _show_findings(table: Table, checkup: Checkup) -> None:
    failed = st.session_state.pop(_FAILED, None)
    if failed is not None:
        show_error(failed)
    findings, accepted = checkup.findings, checkup.accepted
    st.session_state[_EARLIER] = (versions.original_sha256(table), findings)
    report = checkup.examined.report
    checked_for = f"Checked for: {', '.join(report.checked)}." if report else ""
    if findings:
        counts = [(weight, sum(f.weight == weight for f in findings)) for weight in WEIGHT_STYLES]
        by_weight = ", ".join(f"{number} {WEIGHT_LABELS[weight]}" for weight, number in counts if number)
        st.markdown(f"**{format_plural(len(findings), 'finding')}** :gray[{by_weight}]")
    elif checkup.counting:
        st.markdown(f":green[:material/check_circle: **No findings so far.**] :gray[{checked_for}]")
    else:
        summary = "No other findings." if accepted else "No findings."
        st.markdown(f":green[:material/check_circle: **{summary}**] :gray[{checked_for}]")
    for finding in findings:
        with st.container(border=True, gap="xsmall"):
            _show_finding(finding)
            _finding_buttons(table, finding)
            _confirm_fix(table, finding)
    if accepted:
        with st.expander(f"{format_plural(len(accepted), 'accepted finding')}", icon=":material/visibility:"):
            for finding in accepted:
                _show_finding(finding)
                _reopen_buttons(table, finding)
    for note in checkup.examined.report.notes if checkup.examined.report else ():
        st.caption(f":material/info: {escape_text(note, 300)}")


def _earlier_findings(table: Table) -> tuple[Finding, ...]:
    """Return the findings that were open before the data changed, while the new version is being checked."""
    original, findings = st.session_state.get(_EARLIER, ("", ()))
    return findings if original == versions.original_sha256(table) else ()


def _show_earlier_findings(table: Table) -> None:
    findings = _earlier_findings(table)
    if not findings:
        return
    st.caption("Checking again. Findings before the last change:")
    for finding in findings:
        with st.container(border=True):
            icon = WEIGHT_STYLES[finding.weight][1]
            st.markdown(f":gray[{icon} **{escape_text(finding.title)}** {escape_text(finding.message, 600)}]")


def _show_finding(finding: Finding) -> None:
    color, icon = WEIGHT_STYLES[finding.weight]
    st.markdown(
        f":{color}[{icon}] **{escape_text(finding.title)}** {escape_text(finding.message, 600)} "
        f":gray[{escape_text(finding.why, 400)}]"
    )


def _finding_buttons(table: Table, finding: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for number, fix in enumerate(finding.fixes):
            key = f"fix:{finding.kind}:{number}"
            if lasting_button(escape_text(fix.label, 80), key=key, icon=":material/healing:"):
                if fix.count_remaining(table.rows) >= MIN_KEPT_SHARE * table.rows:
                    apply_finding_fix(table, fix)
                st.session_state[_ASKED] = key
            if fix.action == "drop":
                st.caption(f"{format_plural(fix.count_remaining(table.rows), 'row')} would remain", width="content")
        _show_rows_button(table, finding)
        if lasting_button(
            "Accept finding",
            key=f"accept:{finding.kind}",
            type="tertiary",
            icon=":material/visibility:",
            help="Leave the data unchanged. Accepted findings are listed next to Start.",
        ):
            accepted_findings.accept_finding(finding, table, workspace.current_save_dir())
            st.rerun()


def _confirm_fix(table: Table, finding: Finding) -> None:
    """Ask before a fix that removes most of the rows."""
    for number, fix in enumerate(finding.fixes):
        if st.session_state.get(_ASKED) != f"fix:{finding.kind}:{number}":
            continue
        left = format_plural(fix.count_remaining(table.rows), "row")
        st.warning(f"This removes {fix.rows.size:,} of {table.rows:,} rows. Only {left} would remain.", icon=None)
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if lasting_button(f"Remove them and keep {left}", key="fix_anyway", icon=":material/delete:"):
                del st.session_state[_ASKED]
                apply_finding_fix(table, fix)
            if lasting_button("Cancel", key="fix_cancel", type="tertiary"):
                del st.session_state[_ASKED]
                st.rerun()


def _reopen_buttons(table: Table, finding: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _show_rows_button(table, finding)
        if lasting_button("Reopen", key=f"reopen:{finding.kind}", type="tertiary", icon=":material/undo:"):
            accepted_findings.reopen_finding(finding, table, workspace.current_save_dir())
            st.rerun()


def _show_rows_button(table: Table, finding: Finding) -> None:
    if not finding.count:
        return
    label = "Show the row" if finding.count == 1 else f"Show the {finding.count:,} rows"
    if st.button(
        label,
        key=f"show:{finding.kind}",
        type="tertiary",
        icon=":material/table_rows:",
        on_click=_go_to_rows,
        args=(table, finding),
    ):
        st.rerun()


def _go_to_rows(table: Table, finding: Finding) -> None:
    table_view.show_only_rows(table, finding.title, finding.rows)
    st.session_state["row"] = int(finding.rows[0]) + 1
    scroll.request_scroll("dataset")


def apply_finding_fix(table: Table, fix: Fix) -> None:
    """Make the version of the data, or the change of settings, that a fix describes, and rerun the page."""
    if fix.action in ("set", "template"):
        _apply_settings_fix(table, fix)
    else:
        try:
            with st.spinner("Creating a new version of the data…"):
                reference = versions.DatasetReference(
                    str(workspace.current_setting("data.file_type")), str(workspace.current_setting("data.path"))
                )
                version = versions.apply_fix(fix, table, reference, workspace.current_save_dir())
                opening_view.request_dataset(version.file_type, version.path)
        except DataError as error:
            st.session_state[_FAILED] = error
        else:
            st.toast(f"{escape_text(fix.done)}.", icon=":material/check:")
    st.rerun()


def _apply_settings_fix(table: Table, fix: Fix) -> None:
    """Change settings of the draft, and keep their former values for Undo."""
    if fix.action == "template":
        path, text = fix.settings["path"], str(workspace.current_setting(fix.settings["path"]) or "")
        new: dict[str, object] = {path: text.replace(fix.settings["old"], fix.settings["new"]).strip(" ")}
    else:
        new = dict(fix.settings)
    before = {path: workspace.current_setting(path) for path in new}
    st.session_state[_CHANGED] = (versions.original_sha256(table), before, new)
    _set_settings(new)
    st.toast(f"{escape_text(fix.label)}: done.", icon=":material/check:")


def _set_settings(values: dict[str, object]) -> None:
    for path, value in values.items():
        workspace.set_setting(path, value)
    workspace.replace_templates(
        str(workspace.current_setting("data.prompt") or ""), str(workspace.current_setting("data.prompt_stub") or "")
    )


def _undo_fix_line(table: Table) -> None:
    """Draw Undo for the last change of settings by a fix of this dataset, until these settings change again."""
    original, before, after = st.session_state.get(_CHANGED, ("", {}, {}))
    if original != versions.original_sha256(table) or any(
        workspace.current_setting(path) != value for path, value in after.items()
    ):
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        labels = " and ".join(f"**{form_layout.get_field_layout(path).label}**" for path in before)
        st.caption(f":material/check: A fix changed {labels}.", width="content")
        if lasting_button("Undo", key="doctor_undo", type="tertiary", icon=":material/undo:"):
            del st.session_state[_CHANGED]
            _set_settings(before)
            st.rerun()


def _show_failed_checks(examination: Examination) -> None:
    if examination.error is not None:
        show_error(examination.error)
    if lasting_button("Check again", key="doctor_again", icon=":material/refresh:"):
        forget_examination(examination.key)
        st.rerun()
