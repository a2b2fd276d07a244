"""The dataset doctor on screen: what was found, which rows, why it matters, and one click to repair or to accept it.

The checks run in the background (`checkup.py` says how far they are); this looks at them every few seconds.
"""

from __future__ import annotations

import streamlit as st

from toolkit.data.doctor import accepted_findings
from toolkit.data.doctor.examinations import Examination, forget
from toolkit.data.findings import Finding, Fix
from toolkit.data.storage import versions
from toolkit.data.table import Table
from toolkit.errors import DataError
from toolkit.settings import form_layout
from toolkit.ui.data import opening_view, table_view
from toolkit.ui.data.length_view import token_lengths
from toolkit.ui.data.version_view import version_line
from toolkit.ui.elements import scroll
from toolkit.ui.elements.error_boundary import boundary, show_error
from toolkit.ui.elements.escape import plain
from toolkit.ui.elements.words import plural
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.checkup import Checkup, checkup

PERIOD_S = 3.0
LOOKS = {
    "serious": ("red", ":material/error:"),
    "warning": ("orange", ":material/warning:"),
    "note": ("gray", ":material/info:"),
}
WEIGHTS = {"serious": "serious", "warning": "worth a look", "note": "to know"}
NOTHING = "missing cells, empty answers, duplicates, contradictions, test rows in training, wrong columns, garbled text"
_FAILED, _CHANGED, _FORMER = "doctor_failed", "doctor_changed", "doctor_former"


def doctor(table: Table) -> None:
    """The section of the Data page. It looks again by itself: templates are typed without a run of the page."""
    st.fragment(_view, run_every=PERIOD_S)(table)


def pointer(table: Table) -> None:
    """Beside the dataset's name: how many findings are open, and the way down to them."""
    st.fragment(_pointer, run_every=PERIOD_S)(table)


def _pointer(table: Table) -> None:
    with boundary():
        look = checkup(table)
        former = _former_of(table) if look is not None and not look.examined.over else ()
        if former:
            st.caption(f":material/pending: {plural(len(former), 'finding')}, being checked again")
        elif look is not None and look.findings:
            colour, icon = LOOKS[look.findings[0].weight]
            words = f":{colour}[{icon} {plural(len(look.findings), 'finding')}]"
            if st.button(words, type="tertiary", key="to_findings", help="See what the checks found",
                         on_click=scroll.ask, args=("doctor",)):  # fmt: skip
                st.rerun()


def _view(table: Table) -> None:
    with boundary(), st.container(key="doctor"):
        look = checkup(table)
        version_line(table, "checks")
        _changed(table)
        if look is None:
            st.caption(":material/pending: The data is checked once the templates and sizes can be used.")
        elif look.examined.error is not None:
            _broken(look.examined)
        elif look.examined.report is None:
            share, words = look.examined.progress
            st.progress(share, text=f":gray[Checking the data: {words}]")
            _former(table)
        else:
            _findings(table, look)
        if look is not None:
            token_lengths(look)


def _findings(table: Table, look: Checkup) -> None:
    failed = st.session_state.pop(_FAILED, None)
    if failed is not None:
        show_error(failed)
    now, seen = look.findings, look.seen
    st.session_state[_FORMER] = (versions.original_of(table), now)
    if now:
        counts = [(weight, sum(f.weight == weight for f in now)) for weight in LOOKS]
        words = ", ".join(f"{number} {WEIGHTS[weight]}" for weight, number in counts if number)
        st.markdown(f"**{plural(len(now), 'finding')}** :gray[{words}]")
    elif look.counting:
        st.markdown(f":green[:material/check_circle: **Nothing was found so far.**] :gray[Looked for {NOTHING}.]")
    else:
        what = "Nothing else was found." if seen else "Nothing was found."
        st.markdown(f":green[:material/check_circle: **{what}**] :gray[Looked for {NOTHING}.]")
    for finding in now:
        with st.container(border=True, gap="xsmall"):
            _words(finding)
            _buttons(table, finding)
    if seen:
        with st.expander(f"{plural(len(seen), 'finding')} accepted", icon=":material/visibility:"):
            for finding in seen:
                _words(finding)
                _again(table, finding)
    for note in look.examined.report.notes if look.examined.report else ():
        st.caption(f":material/info: {plain(note, 300)}")


def _former_of(table: Table) -> tuple[Finding, ...]:
    """What was open before the data changed, while its new version is being checked."""
    original, findings = st.session_state.get(_FORMER, ("", ()))
    return findings if original == versions.original_of(table) else ()


def _former(table: Table) -> None:
    findings = _former_of(table)
    if not findings:
        return
    st.caption("Being checked again. Open before the last change:")
    for finding in findings:
        with st.container(border=True):
            icon = LOOKS[finding.weight][1]
            st.markdown(f":gray[{icon} **{plain(finding.title)}** {plain(finding.message, 600)}]")


def _words(finding: Finding) -> None:
    colour, icon = LOOKS[finding.weight]
    st.markdown(
        f":{colour}[{icon}] **{plain(finding.title)}** {plain(finding.message, 600)} :gray[{plain(finding.why, 400)}]"
    )


def _buttons(table: Table, finding: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for at, fix in enumerate(finding.fixes):
            if st.button(plain(fix.label, 80), key=f"fix:{finding.kind}:{at}", icon=":material/healing:"):
                _apply(table, fix)
        _show_rows(table, finding)
        if st.button("I have seen this", key=f"accept:{finding.kind}", type="tertiary", icon=":material/visibility:",
                     help="Leave it as it is. Start tells what was accepted."):  # fmt: skip
            accepted_findings.accept(finding, table, workspace.save_dir())
            st.rerun()


def _again(table: Table, finding: Finding) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _show_rows(table, finding)
        if st.button("Open again", key=f"reopen:{finding.kind}", type="tertiary", icon=":material/undo:"):
            accepted_findings.reopen(finding, table, workspace.save_dir())
            st.rerun()


def _show_rows(table: Table, finding: Finding) -> None:
    if not finding.count:
        return
    label = "Show the row" if finding.count == 1 else f"Show the {finding.count:,} rows"
    if st.button(label, key=f"show:{finding.kind}", type="tertiary", icon=":material/table_rows:",
                 on_click=_jump, args=(table, finding)):  # fmt: skip
        st.rerun()


def _jump(table: Table, finding: Finding) -> None:
    table_view.show_only(table, finding.title, finding.rows)
    st.session_state["row"] = int(finding.rows[0]) + 1
    scroll.ask("dataset")


def _apply(table: Table, fix: Fix) -> None:
    if fix.action in ("set", "template"):
        _put(table, fix)
    else:
        try:
            with st.spinner("Making a new version of the data…"):
                here = versions.Place(str(workspace.value("data.file_type")), str(workspace.value("data.path")))
                made = versions.apply(fix, table, here, workspace.save_dir())
                opening_view.choose(made.file_type, made.path)
        except DataError as error:
            st.session_state[_FAILED] = error
        else:
            st.toast(f"{plain(fix.done)}.", icon=":material/check:")
    st.rerun()


def _put(table: Table, fix: Fix) -> None:
    """Change settings of the draft, and keep what they were for Undo."""
    if fix.action == "template":
        path, text = fix.settings["path"], str(workspace.value(fix.settings["path"]) or "")
        new: dict[str, object] = {path: text.replace(fix.settings["old"], fix.settings["new"]).strip(" ")}
    else:
        new = dict(fix.settings)
    before = {path: workspace.value(path) for path in new}
    st.session_state[_CHANGED] = (versions.original_of(table), before, new)
    _replace(new)
    st.toast(f"{plain(fix.label)}: done.", icon=":material/check:")


def _replace(new: dict[str, object]) -> None:
    for path, value in new.items():
        workspace.set_value(path, value)
    workspace.replace_templates(
        str(workspace.value("data.prompt") or ""), str(workspace.value("data.prompt_stub") or "")
    )


def _changed(table: Table) -> None:
    """The way back from the last change of settings that a fix of this dataset made; gone once they changed again."""
    original, before, after = st.session_state.get(_CHANGED, ("", {}, {}))
    if original != versions.original_of(table) or any(workspace.value(path) != value for path, value in after.items()):
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        what = " and ".join(f"**{form_layout.place(path).label}**" for path in before)
        st.caption(f":material/check: A fix changed {what}.", width="content")
        if st.button("Undo", key="doctor_undo", type="tertiary", icon=":material/undo:"):
            del st.session_state[_CHANGED]
            _replace(before)
            st.rerun()


def _broken(one: Examination) -> None:
    if one.error is not None:
        show_error(one.error)
    if st.button("Check again", key="doctor_again", icon=":material/refresh:"):
        forget(one.key)
        st.rerun()
