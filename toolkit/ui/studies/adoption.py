"""What follows from a verdict: its values on Configure, a run with them on all rows, or more seeds for the best."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.runs.status import UNFINISHED
from toolkit.settings.draft import replace_setting
from toolkit.studies.methods.whole_data import plan_whole_data_run, start_whole_data_run
from toolkit.studies.outcomes import Study, has_value
from toolkit.studies.plan import DEFAULT_SEEDS
from toolkit.studies.verdict import StudyVerdict
from toolkit.studies.words import format_result, name_objective
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.forms.form import open_setting
from toolkit.ui.frame import page
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.review import describe_settings
from toolkit.ui.workspace.run_facts import read_run_summary


def draw_adoption(study: Study, verdict: StudyVerdict, values: Mapping[str, Any]) -> None:
    """Draw the button that adopts these values and, once no run of the study is active, the one that trains them."""
    with st.container(horizontal=True):
        st.button(
            "Use these values",
            type="primary",
            icon=":material/check:",
            key="study_adopt",
            help="Put the settings of this study with these values on the Configure page, as a single run.",
            on_click=_adopt_values,
            args=(study, values),
        )
        if any(outcome.state in UNFINISHED for outcome in study.outcomes):
            return
        if _can_train_whole_data(study, values):
            _draw_whole_data(study, verdict, values)
        if study.question.method != "tpe" and len(study.question.seeds) == 1:
            _draw_repeat_best(study)


def _draw_repeat_best(study: Study) -> None:
    """Draw the button that sets up further seeds for the better combinations of a study of one seed."""
    pressed = st.button(
        "Repeat the best",
        icon=":material/repeat:",
        key="study_repeat",
        help=f"Set up this study with {DEFAULT_SEEDS} seeds and successive halving: the better half of combinations "
        "goes on with each further seed. What is trained is not trained again.",
    )
    trained = [outcome.run for outcome in study.outcomes if outcome.run is not None and outcome.value is not None]
    if pressed and trained:
        workspace.refresh_workspace()
        draft = read_run_summary(trained[0]).config
        changes = {"use_ablate": True, "study_name": study.question.name, "seeds": DEFAULT_SEEDS, "prune_losers": True}
        for name, value in changes.items():
            draft = replace_setting(draft, f"ablation.{name}", value)
        workspace.replace_draft(draft, study.question.axes)
        open_setting("ablation.use_ablate")
        page.go_to_page("configure")


def _adopt_values(study: Study, values: Mapping[str, Any]) -> None:
    """Put the settings that the study was trained with on the form: the draft may have changed since."""
    workspace.refresh_workspace()
    trained = [outcome for outcome in study.outcomes if outcome.run is not None and outcome.value is not None]
    fitting = [outcome for outcome in trained if all(has_value(outcome, path, values[path]) for path in values)]
    draft = workspace.current_draft()
    if run := next((outcome.run for outcome in (*fitting, *trained)), None):
        draft = read_run_summary(run).config
    for path, value in {**values, "ablation.use_ablate": False}.items():
        draft = replace_setting(draft, path, value)
    workspace.replace_draft(draft, {})
    st.toast("The settings of the study with these values are on the Configure page.", icon=":material/check:")


def _can_train_whole_data(study: Study, values: Mapping[str, Any]) -> bool:
    try:
        plan_whole_data_run(study, values)
    except ToolkitError:  # its runs trained on all rows already, or their settings can't be read
        return False
    return True


def _draw_whole_data(study: Study, verdict: StudyVerdict, values: Mapping[str, Any]) -> None:
    with st.popover("Train on all rows", icon=":material/database:", key="study_whole_data"):
        st.markdown(
            f"Start one run with {escape_text(describe_settings(values), 1000)} on every row of the dataset but one: "
            "the rows that were the test set of this study are trained as well."
        )
        expected = ""
        if verdict.score is not None:
            score = format_result(study, verdict.score.value)
            expected = f" What to expect of it is what the study found: {score} {name_objective(study)}."
        st.caption(
            ":material/warning: No test figure: a run needs one test row, and one row shows nothing. Early stopping "
            f"and loading the best weights are off, because they need a test set.{expected}"
        )
        if st.button("Start 1 run on all rows", type="primary", icon=":material/play_arrow:", key="start_whole_data"):
            with error_boundary():
                folder = workspace.current_save_dir()
                run = start_whole_data_run(folder, study, values)
                page.get_supervisor(str(folder)).check_now()
                page.go_to_page("runs", run.id)
