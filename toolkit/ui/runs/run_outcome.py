"""What came out of a run: the result with its next steps, why a run failed with its remedy, and the small figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from toolkit.runs.event_facts import Curve, read_run_curves
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus
from toolkit.settings.field_spec import field_specs_by_path
from toolkit.settings.form_layout import name_setting
from toolkit.system.printable import format_bytes, format_count, format_figure, format_plural, format_share
from toolkit.ui.elements.escape import escape_lines, escape_text
from toolkit.ui.elements.words import STATE_LABELS
from toolkit.ui.forms.form import open_setting
from toolkit.ui.frame import page
from toolkit.ui.runs.export_view import open_exports
from toolkit.ui.runs.run_table import draw_comparison_choice
from toolkit.ui.runs.safety_lines import describe_resume, safety_lines
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_chooser import EVALUATE_NOW
from toolkit.ui.workspace.run_entries import RunEntry
from toolkit.ui.workspace.run_facts import read_run_summary

MODEL_SETTING = "model.hf_model_ckpt"
_REMEDY_SETTINGS = {"model_not_found": MODEL_SETTING, "no_network": MODEL_SETTING}
"""Reason of a failure -> the setting to change, where the hint names none or another one first."""


@dataclass(frozen=True)
class RunResult:
    """The figure that says best what a run changed: `before` and `after`, with a sentence on what they are."""

    before: str
    after: str
    meaning: str
    color: str


@dataclass(frozen=True)
class Remedy:
    """What to change after a failure: a page, and a setting on it. path: "" for the page as a whole."""

    label: str
    page: str
    path: str = ""


def summarize_result(status: RunStatus, losses: Curve | None) -> RunResult | None:
    """Return the exact match of base model and adapter, or else the first and the last loss; None without figures.

    losses: the loss on the test split by step. Where neither model answers a row exactly, as with free text, the loss
    says more.
    """
    base, adapter = status.scores.get("exact_match_base"), status.scores.get("exact_match")
    rows = int(status.scores.get("rows") or 0)
    if base is not None and adapter is not None and rows and (base or adapter or not losses):
        right = f"{round(adapter * rows):,} of {format_plural(rows, 'test row')}"
        seen = int(status.scores.get("seen_rows") or 0)
        meaning = f"exact match, base model → adapter ({right}{describe_seen_rows(seen)})"
        return RunResult(format_share(base), format_share(adapter), meaning, _color(adapter - base))
    if losses and len(losses) > 1:
        first, last = losses[0], losses[-1]
        meaning = f"test loss, step {first[0]:,} → step {last[0]:,}"
        return RunResult(format_figure(first[1]), format_figure(last[1]), meaning, _color(first[1] - last[1]))
    return None


def describe_seen_rows(count: int) -> str:
    """Return what to add to a number of test rows of which some are also training rows."""
    return f"; {count:,} of them {'is' if count == 1 else 'are'} also in the training set" if count else ""


def _color(gain: float) -> str:
    return "green" if gain > 0 else "red" if gain < 0 else "gray"


def find_remedy(status: RunStatus) -> Remedy | None:
    """Return what to change after a failure; None if nothing has to be changed before another try."""
    path = _REMEDY_SETTINGS.get(status.reason) or _first_setting_in(status.hint)
    if status.reason == "bad_data" or "Data page" in status.hint:
        return Remedy("Correct the data", "data")
    if path == MODEL_SETTING:
        return Remedy("Change the model", "configure", path)
    if path:
        return Remedy(f"Change {name_setting(path)}", "configure", path)
    return Remedy("Change the settings", "configure") if status.reason in ("bad_settings", "refused") else None


def _first_setting_in(text: str) -> str:
    """Return the path of the setting that the text names first, by its path or its key; "" if it names none."""
    found = {}
    for path in field_specs_by_path():
        if path == "save_dir":  # a hint names it as a place
            continue
        key = path.rpartition(".")[2]
        # a key of one word, such as "path", is also a word of the language: only its whole path counts
        names = [path, key] if "_" in key else [path]
        places = [match.start() for name in names if (match := re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text))]
        if places:
            found[path] = min(places)
    return min(found, key=found.__getitem__, default="")


def draw_run_result(run: RunDir, status: RunStatus, entries: Sequence[RunEntry]) -> None:
    """Draw the result of a run that has an adapter, large, and what to do with it. entries: all runs."""
    result = summarize_result(status, read_run_curves(run.events_path).get("eval_loss"))
    with st.container(border=True, key="result"):
        with st.container(gap=None):
            if result is not None:
                st.header(f"{result.before} → :{result.color}[{result.after}]", anchor=False)
                st.caption(result.meaning)
            else:
                st.header("The adapter is trained", anchor=False)
        for reason in status.unanswered:
            st.warning(escape_lines(reason), icon=":material/warning:")
        with st.container(horizontal=True, gap="small"):
            if st.button("Chat", type="primary", icon=":material/forum:", help="Open this run in the Playground."):
                page.go_to_page("playground", run.id)
            if st.button(
                "Evaluate", icon=":material/balance:", help="Test whether the difference from the base model is real."
            ):
                st.session_state[EVALUATE_NOW] = run.id
                page.go_to_page("evaluate", run.id)
            if st.button("Export", icon=":material/ios_share:", help="Download the model or push it to the Hub."):
                open_exports(run)
            draw_comparison_choice(run.id, entries)


def draw_run_end(run: RunDir, status: RunStatus) -> None:
    """Draw why a run ended without a result or waits, the remedy of a failure, and notes on checkpoints."""
    if status.state in ("failed", "interrupted"):
        body = escape_lines(status.message) or "The run ended without an error message. The log may show why."
        show = st.error if status.state == "failed" else st.warning
        show(f"{body}  \n{escape_lines(status.hint)}" if status.hint else body, icon=STATE_LABELS[status.state][1])
        _draw_remedy(run, status)
        if status.trace:
            with st.expander("Stack trace", icon=":material/troubleshoot:"):
                st.code(status.trace, language=None, wrap_lines=True)
    elif status.state == "stopped" and status.message:
        st.info(escape_lines(status.message), icon=STATE_LABELS["stopped"][1])
    elif status.state in ("queued", "starting") and status.attempt and (status.message or status.state == "queued"):
        st.info(f"{escape_lines(status.message)}  \n{describe_resume(status)}".strip(), icon=":material/autorenew:")
    for line in safety_lines(status):
        st.caption(line)
    for warning in [one for one in status.warnings if one not in status.unanswered][-5:]:
        st.caption(f":orange[:material/warning:] {escape_text(warning, 500)}")


def _draw_remedy(run: RunDir, status: RunStatus) -> None:
    remedy = find_remedy(status)
    if remedy is None:
        return
    if st.button(
        escape_text(remedy.label),
        type="primary",
        icon=":material/build:",
        key=f"remedy_{run.id}",
        help="Loads the settings of this run into Data and Configure.",
    ):
        workspace.replace_draft(read_run_summary(run).config)
        if remedy.path:
            open_setting(remedy.path)
        page.go_to_page(remedy.page)


def draw_figures(status: RunStatus) -> None:
    """Draw the latest figures of a run in one line, without those that are not known."""
    last, prepared = status.last, status.prepared
    speed = last.get("tokens_per_second")
    figures = (
        ("Training loss", format_figure(last.get("loss"))),
        ("Test loss", format_figure(last.get("eval_loss"))),
        ("Tokens per second", format_count(None if speed is None else round(speed))),
        ("Memory", format_bytes(last.get("gpu_memory_bytes") or last.get("memory_bytes"))),
        ("Training rows", format_count(prepared.get("train_rows"))),
        ("Test rows", format_count(prepared.get("test_rows"))),
    )
    shown = [f":gray[{name}]\u00a0**{value}**".replace(" ", "\u00a0") for name, value in figures if value != "–"]
    if shown:
        st.markdown(" · ".join(shown))
    said = " ".join(status.warnings)  # which are drawn above, and mostly name these rows too
    skipped, truncated = prepared.get("dropped") or 0, prepared.get("truncated_rows") or 0
    notes = []
    if skipped and "skipped" not in said:
        notes.append(f"{format_plural(skipped, 'row')} skipped because of missing cells")
    if truncated and "truncated" not in said:
        notes.append(f"{format_plural(truncated, 'row')} truncated to the max sequence length")
    if notes:
        st.caption(f":orange[:material/warning:] {', '.join(notes)}.")
