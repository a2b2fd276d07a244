"""The Evaluate page: the chosen run and evaluation, its progress and its results, with the verdict first."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.evaluation import evaluation_dir, progress
from toolkit.evaluation.evaluation_dir import Evaluation
from toolkit.evaluation.statistics.results import EvaluationResults, read_evaluation_results
from toolkit.runs.run_dir import RunDir
from toolkit.system.printable import format_count, format_duration, format_plural
from toolkit.ui.elements.error_boundary import error_boundary, show_error
from toolkit.ui.elements.escape import escape_lines, escape_text
from toolkit.ui.elements.words import distinguish_labels
from toolkit.ui.evaluate import details, figures
from toolkit.ui.evaluate.pair import choose_compared_models, name_models
from toolkit.ui.evaluate.rows import draw_evaluation_rows
from toolkit.ui.evaluate.rule_editor import draw_rule_editor
from toolkit.ui.evaluate.start import claim_first_start, draw_evaluation_form, launch_evaluation
from toolkit.ui.runs.export_view import open_exports
from toolkit.ui.runs.run_table import draw_comparison_choice
from toolkit.ui.workspace.comparable_models import list_comparable_models
from toolkit.ui.workspace.run_chooser import EVALUATE_NOW, choose_shown_run
from toolkit.ui.workspace.run_entries import RunEntry

EVALUATION_REFRESH_SECONDS = 1
_EXPORT_HELP = "Export this run's model; each export is verified against the answers of the run."


def draw_evaluate_page(runs_with_adapter: Sequence[RunEntry], all_runs: Sequence[RunEntry]) -> RunEntry:
    """Draw the page for one of the runs with an adapter; return the chosen one."""
    left, right = st.columns(2)
    with left:
        entry = choose_shown_run(runs_with_adapter, "Run")
    evaluations = evaluation_dir.list_evaluations(entry.run)
    if (
        st.session_state.pop(EVALUATE_NOW, None) == entry.run.id
        and not evaluations
        and launch_evaluation(entry.run) is not None
    ):
        st.rerun()
    with right:
        evaluation = _choose_evaluation(evaluations)
    if evaluation is None:
        _draw_first_start(entry, all_runs)
        return entry
    _draw_evaluation(evaluation, entry, all_runs)
    return entry


def _choose_evaluation(evaluations: Sequence[Evaluation]) -> Evaluation | None:
    if not evaluations:
        return None
    by_id = {evaluation.id: evaluation for evaluation in evaluations}
    previous_id = st.session_state.get("evaluation_id")
    index = list(by_id).index(previous_id) if previous_id in by_id else 0
    chosen_id = st.selectbox(
        "Evaluation",
        list(by_id),
        index=index,
        format_func=distinguish_labels({name: _label(one) for name, one in by_id.items()}).__getitem__,
        key=f"evaluation_{evaluations[0].id}_{len(evaluations)}_{evaluations[0].run.id}",
    )
    st.session_state["evaluation_id"] = chosen_id
    return by_id[chosen_id or evaluations[0].id]


def _label(evaluation: Evaluation) -> str:
    try:
        spec = evaluation_dir.read_evaluation_spec(evaluation)
    except ToolkitError:
        return f"{evaluation.id} (can't be read)"
    created = datetime.fromtimestamp(spec.created).astimezone()
    return f"{created:%d %b %H:%M} · {spec.label}"


def _draw_first_start(entry: RunEntry, all_runs: Sequence[RunEntry]) -> None:
    with st.container(border=True):
        st.header(":material/balance: Is the adapter better than the base model?", anchor=False)
        st.markdown(
            "The base model and the adapter answer the test set, and each difference is tested for statistical "
            "significance. You can close this page while the evaluation runs."
        )
        clicked = st.button("Evaluate", type="primary", icon=":material/play_arrow:", key="evaluate")
        if clicked and launch_evaluation(entry.run) is not None:
            st.rerun()
    with st.expander("Evaluation options: rows, compared models, rules", icon=":material/tune:"):
        _draw_options(entry, all_runs, None)


def _draw_options(entry: RunEntry, all_runs: Sequence[RunEntry], evaluation: Evaluation | None) -> None:
    request = draw_evaluation_form(entry, list_comparable_models(entry, all_runs))
    st.divider()
    rules = draw_rule_editor()
    with st.container(horizontal=True, gap="small"):
        clicked = st.button(
            "Evaluate with these options",
            icon=":material/play_arrow:",
            key="evaluate_these",
            disabled=request.is_incomplete,
        )
        if clicked and launch_evaluation(entry.run, request) is not None:
            st.rerun()
        rules_changed = evaluation is not None and _rules_of(evaluation) != rules
        if (
            evaluation is not None
            and rules_changed
            and st.button(
                "Apply rules to this evaluation",
                icon=":material/rule:",
                key="apply_rules",
                help="Recomputes the results from the recorded answers.",
            )
        ):
            evaluation_dir.replace_evaluation_rules(evaluation, rules)
            claim_first_start(evaluation)
            progress.start_evaluation(evaluation)
            st.rerun()


def _rules_of(evaluation: Evaluation) -> object:
    try:
        return evaluation_dir.read_evaluation_rules(evaluation)
    except ToolkitError:
        return None


def _draw_evaluation(evaluation: Evaluation, entry: RunEntry, all_runs: Sequence[RunEntry]) -> None:
    status = progress.read_evaluation_progress(evaluation)
    if status.state == "interrupted" and _resume_interrupted(evaluation):
        status = progress.read_evaluation_progress(evaluation)
    if status.is_running:
        _draw_progress(evaluation)
    else:
        _draw_ending(evaluation, status)
        results = read_evaluation_results(evaluation.results_path)
        if results is not None and results.answered:
            _draw_results(evaluation, results, all_runs, is_finished=status.state == "finished")
    if not status.is_running:
        with st.expander("Evaluate again with other rows, models or rules", icon=":material/tune:"):
            _draw_options(entry, all_runs, evaluation)


def _resume_interrupted(evaluation: Evaluation) -> bool:
    """Continue an interrupted evaluation; return whether it was started.

    Not if it was stopped on request, nor if this session has started it before: it would probably fail again.
    """
    if evaluation.stop_path.exists() or not claim_first_start(evaluation):
        return False
    try:
        with st.spinner("Continuing the interrupted evaluation…"):
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
        status = progress.read_evaluation_progress(evaluation)
        if not status.is_running:
            st.rerun()
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.badge("Evaluating", icon=":material/balance:", color="blue")
                st.markdown(" · ".join(_progress_facts(status)) or " ", width="stretch")
                is_stopping = evaluation.stop_path.exists()
                if st.button(
                    "Stop",
                    icon=":material/stop_circle:",
                    key="stop_evaluation",
                    disabled=is_stopping,
                    help="Shows results for the rows answered so far. The evaluation can be continued later.",
                ):
                    evaluation_dir.request_evaluation_stop(evaluation)
            st.progress(status.fraction)
            if status.attempts > 1:
                st.caption(":material/replay: Continued: rows that already have answers are skipped.")


def _progress_facts(status: progress.EvaluationProgress) -> list[str]:
    parts = [escape_text(status.phase)] if status.phase else []
    if status.total:
        parts.append(_answer_count(status))
    parts.append(f"{format_duration(status.elapsed_s)} elapsed")
    if status.remaining_s:
        parts.append(f"about {format_duration(status.remaining_s)} left")
    return parts


def _answer_count(status: progress.EvaluationProgress) -> str:
    return f"{format_count(status.done)} of {format_plural(status.total, 'answer')}"


def _draw_ending(evaluation: Evaluation, status: progress.EvaluationProgress) -> None:
    """Draw why an evaluation did not finish, with a button to continue it."""
    if status.state == "finished":
        return
    if status.state == "failed":
        st.error(f"{escape_lines(status.message)}  \n{escape_lines(status.hint)}", icon=":material/error:")
    elif status.state == "interrupted":
        st.warning(
            f"The evaluation was interrupted after {_answer_count(status)}. All recorded answers are kept.",
            icon=":material/power_off:",
        )
    elif status.state == "stopped":
        st.info(
            f"Stopped after {_answer_count(status)}.",
            icon=":material/stop_circle:",
        )
    if st.button("Continue evaluation", type="primary", icon=":material/play_arrow:", key="go_on"):
        try:
            progress.start_evaluation(evaluation)
        except ToolkitError as error:
            show_error(error)
        else:
            st.rerun()


def _draw_results(
    evaluation: Evaluation, results: EvaluationResults, all_runs: Sequence[RunEntry], *, is_finished: bool
) -> None:
    names = name_models(results, all_runs)
    figures.draw_verdicts(results, names)
    with st.container(horizontal=True, gap="small"):
        kind: Literal["primary", "secondary"] = "primary" if is_finished else "secondary"
        if st.button("Export", type=kind, icon=":material/ios_share:", key="take_away", help=_EXPORT_HELP):
            open_exports(evaluation.run)
        draw_comparison_choice(evaluation.run.id, all_runs)
    pair = choose_compared_models(evaluation, results, names)
    figures.draw_differences(results, names, pair.model, pair.reference)
    figures.draw_flip_tiles(results, pair.model, pair.reference, names)
    figures.draw_measures_tables(results, names, pair.reference)
    details.draw_confusion(results, names)
    details.draw_result_details(results, names, pair.reference)
    draw_evaluation_rows(evaluation, results, pair, names)
