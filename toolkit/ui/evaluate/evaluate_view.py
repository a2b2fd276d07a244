"""The Evaluate page: a run, its evaluations, what one is doing, and what it found. The verdict comes first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.evaluation import evaluation_dir, progress
from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.statistics.results import EvaluationResults, read_evaluation_results
from toolkit.runs.run_dir import RunDir
from toolkit.ui.elements.error_boundary import error_boundary, show_error
from toolkit.ui.elements.escape import escape_lines, escape_text
from toolkit.ui.elements.words import format_count, format_duration, format_plural
from toolkit.ui.evaluate import figures
from toolkit.ui.evaluate.pair import choose_compared_models, name_models
from toolkit.ui.evaluate.rows import draw_evaluation_rows
from toolkit.ui.evaluate.rule_editor import draw_rule_editor
from toolkit.ui.evaluate.start import claim_first_start, draw_evaluation_form, launch_evaluation
from toolkit.ui.runs.export_view import open_exports
from toolkit.ui.runs.run_actions import EVALUATE_NOW
from toolkit.ui.workspace.comparable_models import list_comparable_models
from toolkit.ui.workspace.run_chooser import choose_shown_run
from toolkit.ui.workspace.run_entries import RunEntry

EVALUATION_REFRESH_SECONDS = 1


def draw_evaluate_page(usable: Sequence[RunEntry], found: Sequence[RunEntry]) -> RunEntry:
    """Draw the page over the runs that have an adapter; returns the chosen one. found: all runs."""
    left, right = st.columns(2)
    with left:
        entry = choose_shown_run(usable, "Run")
    all_of_it = evaluation_dir.list_evaluations(entry.run)
    if (
        st.session_state.pop(EVALUATE_NOW, None) == entry.run.id
        and not all_of_it
        and launch_evaluation(entry.run) is not None
    ):
        st.rerun()
    with right:
        evaluation = _choose_evaluation(all_of_it)
    if evaluation is None:
        _draw_first_start(entry, found)
        return entry
    _draw_evaluation(evaluation, entry, found)
    return entry


def _choose_evaluation(found: Sequence[Evaluation]) -> Evaluation | None:
    if not found:
        return None
    by_id = {one.id: one for one in found}
    wanted = st.session_state.get("evaluation_id")
    index = list(by_id).index(wanted) if wanted in by_id else 0
    picked = st.selectbox(
        "Evaluation", list(by_id), index=index, format_func=lambda one: _label(by_id[one]),
        key=f"evaluation_{found[0].id}_{len(found)}_{found[0].run.id}",
    )  # fmt: skip
    st.session_state["evaluation_id"] = picked
    return by_id[picked or found[0].id]


def _label(evaluation: Evaluation) -> str:
    try:
        spec = evaluation_dir.read_evaluation_spec(evaluation)
    except ToolkitError:
        return f"{evaluation.id} (can't be read)"
    when = datetime.fromtimestamp(spec.created).astimezone()
    return f"{when:%d %b %H:%M} · {spec.label}"


def _draw_first_start(entry: RunEntry, found: Sequence[RunEntry]) -> None:
    with st.container(border=True):
        st.markdown("##### :material/balance: Is it better?")
        st.markdown(
            "Base model and adapter answer the rows that were held out, and every difference is held against chance. "
            "It goes on when this page is closed."
        )
        pressed = st.button("Evaluate", type="primary", icon=":material/play_arrow:", key="evaluate")
        if pressed and launch_evaluation(entry.run) is not None:
            st.rerun()
    with st.expander("With other rows, other runs or rules", icon=":material/tune:"):
        _draw_options(entry, found, None)


def _draw_options(entry: RunEntry, found: Sequence[RunEntry], evaluation: Evaluation | None) -> None:
    wanted = draw_evaluation_form(entry, list_comparable_models(entry, found))
    st.divider()
    rules = draw_rule_editor()
    with st.container(horizontal=True, gap="small"):
        pressed = st.button(
            "Evaluate these", icon=":material/play_arrow:", key="evaluate_these", disabled=wanted.missing
        )  # fmt: skip
        if pressed and launch_evaluation(entry.run, wanted) is not None:
            st.rerun()
        stale = evaluation is not None and _rules_of(evaluation) != rules
        if evaluation is not None and stale and st.button(
            "Apply these rules to the answers above", icon=":material/rule:", key="apply_rules",
            help="The answers stay; only the figures are made anew.",
        ):  # fmt: skip
            evaluation_dir.replace_evaluation_rules(evaluation, rules)
            claim_first_start(evaluation)
            progress.start_evaluation(evaluation)
            st.rerun()


def _rules_of(evaluation: Evaluation) -> object:
    try:
        return evaluation_dir.read_evaluation_rules(evaluation)
    except ToolkitError:
        return None


def _draw_evaluation(evaluation: Evaluation, entry: RunEntry, found: Sequence[RunEntry]) -> None:
    now = progress.read_evaluation_progress(evaluation)
    if now.state == "interrupted" and _resume_interrupted(evaluation):
        now = progress.read_evaluation_progress(evaluation)
    if now.going:
        _draw_progress(evaluation)
    else:
        _draw_ending(evaluation, now)
        results = read_evaluation_results(evaluation.results_path)
        if results is not None and results.answered:
            _draw_results(evaluation, results, found)
    if not now.going:
        with st.expander("Evaluate again: other rows, other runs, rules", icon=":material/tune:"):
            _draw_options(entry, found, evaluation)


def _resume_interrupted(evaluation: Evaluation) -> bool:
    """One that broke off goes on when its page is opened. One that this session has started before waits for a person:
    it would break off again."""
    if evaluation.stop_path.exists() or not claim_first_start(evaluation):
        return False
    try:
        with st.spinner("It had broken off: going on…"):
            progress.start_evaluation(evaluation)
    except ToolkitError as error:
        show_error(error)
        return False
    return True


def _draw_progress(evaluation: Evaluation) -> None:
    st.fragment(_watch_progress, run_every=EVALUATION_REFRESH_SECONDS, key=f"evaluation_{evaluation.id}")(
        evaluation.run, evaluation.id
    )


def _watch_progress(run: RunDir, evaluation_id: str) -> None:
    with error_boundary():
        evaluation = Evaluation(run, evaluation_id)
        now = progress.read_evaluation_progress(evaluation)
        if not now.going:
            st.rerun()
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.badge("Evaluating", icon=":material/balance:", color="blue")
                st.markdown(" · ".join(_progress_facts(now)) or " ", width="stretch")
                stopping = evaluation.stop_path.exists()
                if st.button(
                    "Stop", icon=":material/stop_circle:", key="stop_evaluation", disabled=stopping,
                    help="Counts what was answered so far; it can go on later.",
                ):  # fmt: skip
                    evaluation_dir.request_evaluation_stop(evaluation)
            st.progress(now.fraction)
            if now.attempts > 1:
                st.caption(":material/replay: It goes on where it was: what was answered is not asked again.")


def _progress_facts(now: progress.EvaluationProgress) -> list[str]:
    parts = [escape_text(now.phase)] if now.phase else []
    if now.total:
        parts.append(f"{format_count(now.done)} of {format_plural(now.total, 'answer')}")
    parts.append(f"{format_duration(now.elapsed_s)} elapsed")
    if now.remaining_s:
        parts.append(f"about {format_duration(now.remaining_s)} left")
    return parts


def _draw_ending(evaluation: Evaluation, now: progress.EvaluationProgress) -> None:
    """What is to be said about one that did not run to its end, and the way on."""
    if now.state == "finished":
        return
    if now.state == "failed":
        st.error(f"{escape_lines(now.message)}  \n{escape_lines(now.hint)}", icon=":material/error:")
    elif now.state == "interrupted":
        st.warning(
            f"It was ended from outside after {format_count(now.done)} of {format_plural(now.total, 'answer')}. Nothing is lost.",
            icon=":material/power_off:",
        )
    elif now.state == "stopped":
        st.info(
            f"Stopped after {format_count(now.done)} of {format_plural(now.total, 'answer')}.",
            icon=":material/stop_circle:",
        )
    if st.button("Go on where it was", type="primary", icon=":material/play_arrow:", key="go_on"):
        try:
            progress.start_evaluation(evaluation)
        except ToolkitError as error:
            show_error(error)
        else:
            st.rerun()


def _draw_results(evaluation: Evaluation, results: EvaluationResults, found: Sequence[RunEntry]) -> None:
    names = name_models(results, found)
    figures.draw_verdicts(results, names)
    if st.button("Take the model away", icon=":material/ios_share:", key="take_away",
                 help="Its export, checked against what it answered when training ended."):  # fmt: skip
        open_exports(evaluation.run)
    pair = choose_compared_models(evaluation, results, names)
    figures.draw_flip_tiles(results, pair.model, pair.reference, names)
    figures.draw_measures_table(results, names, pair.reference)
    figures.draw_result_details(results, names, pair.reference)
    draw_evaluation_rows(evaluation, results, pair, names)
