"""The review of the draft: the trials that it would start, and the problems in settings, study, data and machine.

A session caches the last review by draft, grid, table and machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import streamlit as st

from toolkit.config import Config
from toolkit.data.read_options import SOURCE_SETTINGS, source_key
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import ConfigError, DataError, Problem, RunError
from toolkit.runs.preflight import preflight_problems
from toolkit.runs.run_dir import save_dir_of
from toolkit.services.warm_client import QuestionState
from toolkit.settings import ablation
from toolkit.settings import draft as drafts
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.studies.plan import plan_study
from toolkit.studies.question import StudyQuestion, ask_study
from toolkit.studies.start import StudyProgress, find_study_conflict, find_study_progress
from toolkit.system.machine import Machine, read_known_machine
from toolkit.ui.workspace import hard_stop_view, workspace


@dataclass(frozen=True)
class DraftReview:
    """What the draft would start.

    trials: one for each run; none while any setting has an error. problems: errors first, then warnings.
    runs: how many runs there would be. checking: the search for hard stops in the rows, while it is running.
    combinations: the trials of a study without their repeats. later: those that TPE chooses by results.
    question: what a study asks, once its data is open.
    progress: which of its trials have a run already.
    """

    trials: tuple[ablation.StudyTrial, ...]
    problems: tuple[Problem, ...]
    runs: int
    checking: QuestionState | None = None
    combinations: int = 1
    later: int = 0
    question: StudyQuestion | None = None
    progress: StudyProgress | None = None

    @property
    def runs_to_start(self) -> int:
        """Runs that Start would queue: those of a study that have no run yet."""
        return self.runs if self.progress is None else self.progress.to_train

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def review_draft(wait: float = 0.0) -> DraftReview:
    """Review the session's draft. wait: seconds to wait for the search for hard stops in the rows."""
    draft, grid, table = workspace.current_draft(), workspace.current_grid(), workspace.current_table()
    machine = read_known_machine(workspace.current_save_dir())
    error = workspace.table_error()
    key = json.dumps([draft, grid, table.sha256 if table else str(error), repr(machine)], sort_keys=True, default=str)
    cached = st.session_state.get("review")
    if cached is None or cached[0] != key:
        st.session_state["review"] = cached = (key, review_settings(draft, grid, table, error, machine))
    reviewed = cast(DraftReview, cached[1])
    varied = ablation.uses_ablation(draft) and varies_table(grid)
    stops, checking = hard_stop_view.find_hard_stop_problems(reviewed.trials, None if varied else table, wait)
    # read anew each time: the runs of the study end while the draft stays the same
    conflict, progress = _compare_with_existing_study(reviewed.question)
    problems = _errors_first([*([conflict] if conflict else []), *reviewed.problems, *stops])
    return replace(reviewed, problems=problems, checking=checking, progress=progress)


def _compare_with_existing_study(question: StudyQuestion | None) -> tuple[Problem | None, StudyProgress | None]:
    """Return why the question can't be asked under its name, and what Start would do with each of its trials."""
    if question is None:
        return None, None
    folder = workspace.current_save_dir()
    try:
        return find_study_conflict(folder, question), find_study_progress(folder, question)
    except RunError as error:
        return Problem("ablation.study_name", error.message, error.hint), None


def review_settings(
    draft: Mapping[str, Any],
    grid: ablation.ValueGrid,
    table: Table | None,
    table_error: DataError | None,
    machine: Machine | None,
) -> DraftReview:
    """Return the trials of the draft and every problem of the draft or of any of its trials."""
    used = grid if ablation.uses_ablation(draft) else {}
    problems = ablation.check_value_grid(draft, grid)
    try:
        plan = plan_study(draft, grid) if found_no_error(problems) else None
    except ConfigError as error:
        plan = None
        problems += error.problems
    trials = plan.trials if plan is not None else ()
    problems += plan.left_out if plan is not None else ()
    if table_error is not None and not varies_table(used):
        problems.append(Problem("data.path", table_error.message, table_error.hint))
    for trial in pick_trial_per_value(trials):
        trial_table, table_problems = _run_table(trial.config, table, used)
        problems += table_problems
        problems += preflight_problems(trial.config, trial_table, machine)
    found = _first_for_each_message(_errors_first(problems))
    if plan is None:
        return DraftReview(trials, found, ablation.count_trials(used))
    question = _ask_question(draft, trials, table, used) if found_no_error(found) else None
    return DraftReview(trials, found, len(trials), None, plan.combinations, plan.later, question)


def found_no_error(problems: Iterable[Problem]) -> bool:
    """Return whether all of these problems are warnings."""
    return all(problem.severity == "warning" for problem in problems)


def _ask_question(
    draft: Mapping[str, Any], trials: Sequence[ablation.StudyTrial], table: Table | None, used: ablation.ValueGrid
) -> StudyQuestion | None:
    """Return what the study asks; None for a single run, and while its data is not open."""
    if not ablation.uses_ablation(draft) or not (used or len(trials) > 1):
        return None
    if varies_table(used):
        configs = {source_key(trial.config.data): trial.config for trial in trials}
        hashes = {key: open_run_table(config).sha256 for key, config in configs.items()}
        datasets = [hashes[source_key(trial.config.data)] for trial in trials]
    elif table is not None:
        datasets = [table.sha256] * len(trials)
    else:
        return None
    return ask_study(str(drafts.get_setting(draft, "ablation.study_name")), trials, datasets, draft, used)


def pick_trial_per_value(trials: Iterable[ablation.StudyTrial]) -> list[ablation.StudyTrial]:
    """Return the first trial with each value of each setting.

    Problems that depend on machine and data rarely need every combination, of which there may be hundreds.
    """
    seen: set[tuple[str, str]] = set()
    chosen = []
    for at, trial in enumerate(trials):
        new = {(path, repr(value)) for path, value in trial.settings.items()} - seen
        if new or at == 0:
            chosen.append(trial)
            seen |= new
    return chosen


def varies_table(paths: Iterable[str]) -> bool:
    """Return whether trials that differ in these settings may have different tables."""
    return not {"data", *(f"data.{name}" for name in SOURCE_SETTINGS)}.isdisjoint(paths)


def open_run_table(config: Config) -> Table:
    """Open the dataset of one run. Raises: DataError if it can't be opened."""
    return open_table(config.data, save_dir_of(config))


def tabulate_trials(trials: Sequence[ablation.StudyTrial]) -> list[dict[str, str]]:
    """Return one table row for each trial, with the settings that differ as columns under their labels."""
    differing = [path for path in trials[0].settings if len({repr(v.settings[path]) for v in trials}) > 1]
    return [
        {"Run": str(at), **{name_setting(path): describe_value(path, trial.settings[path]) for path in differing}}
        for at, trial in enumerate(trials, start=1)
    ]


def _run_table(config: Config, table: Table | None, used: ablation.ValueGrid) -> tuple[Table | None, list[Problem]]:
    if not varies_table(used):
        return table, []
    try:
        return open_run_table(config), []
    except DataError as error:
        return None, [Problem("data.path", error.message, error.hint)]


def _errors_first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.severity == "warning"))


def _first_for_each_message(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    found: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        found.setdefault((problem.path, problem.message), problem)
    return tuple(found.values())


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Return settings with their labels and values: "LoRA rank (r) 8, Learning rate 2e-4"."""
    return ", ".join(f"{name_setting(path)} {describe_value(path, value)}" for path, value in settings.items())
