"""What Start would do for a study: its runs, what exists already, and the question when its name is taken."""

from __future__ import annotations

from typing import Any

import streamlit as st

from toolkit.settings.ablation import count_trials
from toolkit.studies.known_runs import read_old_question
from toolkit.studies.outcomes import find_free_name
from toolkit.system.printable import format_plural
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import DraftReview, tabulate_trials


def draw_study_table(reviewed: DraftReview) -> None:
    """Draw the runs that the study would start, with the settings that differ."""
    if workspace.current_setting("ablation.use_ablate") is not True:
        return
    if not workspace.current_grid():
        return
    if not reviewed.trials:
        st.caption("Correct the settings to see the list of runs.")
        return
    study = escape_text(workspace.current_setting("ablation.study_name") or "")
    st.markdown(f"**{format_plural(reviewed.runs_to_start, 'run')}** will be queued under the study **{study}**.")
    st.caption(_describe_plan(reviewed))
    rows = tabulate_trials(reviewed.trials[: reviewed.combinations])
    st.dataframe(rows, hide_index=True, width="stretch", height="content" if len(rows) <= 12 else 440)


def _describe_plan(reviewed: DraftReview) -> str:
    """Return how the runs of a study come about: combinations, seeds, and the trials that have a run already."""
    combinations = format_plural(reviewed.combinations, "combination")
    seeds = max(1, len(reviewed.trials) // max(reviewed.combinations, 1))
    parts = [f"{combinations} × {format_plural(seeds, 'seed')} = {format_plural(len(reviewed.trials), 'run')}."]
    method = workspace.current_setting("ablation.method")
    if method in ("random", "tpe"):
        parts.append(f"They are drawn at random from {count_trials(workspace.current_grid()):,} combinations.")
    if reviewed.later:
        later = format_plural(reviewed.later, "further combination")
        parts.append(f"TPE then chooses {later}, one after another, by the results. Stop a trial to hold the study.")
    progress = reviewed.progress
    if progress is not None and progress.kept:
        parts.append(f"{len(progress.kept)} of them are trained or queued already and are not trained again.")
    if progress is not None and progress.resumed:
        parts.append(f"{len(progress.resumed)} were stopped and continue from their last checkpoint.")
    if progress is not None and progress.failed:
        parts.append(f"{len(progress.failed)} failed; to train one again, press Resume on the Runs page.")
    return " ".join(parts)


def draw_name_conflict(reviewed: DraftReview) -> None:
    """Offer the two ways out when a study of this name asks something else."""
    question = reviewed.question
    if question is None or not any(problem.path == "ablation.study_name" for problem in reviewed.errors):
        return
    folder = workspace.current_save_dir()
    old = read_old_question(folder, question.name)
    new_name = find_free_name(folder, question.name)
    with st.container(horizontal=True):
        st.button(
            f"Name it '{escape_text(new_name, 60)}'",
            key="study_rename",
            on_click=workspace.replace_settings,
            args=({"ablation.study_name": new_name},),
        )
        if old is not None and old.axes != question.axes:
            st.button("Use the values of the existing study", key="study_reuse", on_click=_use_axes, args=(old.axes,))


def _use_axes(axes: dict[str, list[Any]]) -> None:
    workspace.refresh_workspace()
    workspace.replace_settings({}, axes)
