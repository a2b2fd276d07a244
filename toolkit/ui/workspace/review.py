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
from toolkit.data.read_options import SOURCE_SETTINGS
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem
from toolkit.runs.preflight import preflight_problems
from toolkit.runs.run_dir import save_dir_of
from toolkit.services.warm_client import QuestionState
from toolkit.settings import ablation, form_layout
from toolkit.settings.field_spec import field_specs_by_path
from toolkit.settings.typed_text import summarize_value
from toolkit.system.machine import Machine, read_known_machine
from toolkit.ui.workspace import hard_stop_view, workspace


@dataclass(frozen=True)
class DraftReview:
    """What the draft would start.

    trials: one for each run; none while any setting has an error. problems: errors first, then warnings.
    runs: how many runs there would be. checking: the search for hard stops in the rows, while it is running.
    """

    trials: tuple[ablation.StudyTrial, ...]
    problems: tuple[Problem, ...]
    runs: int
    checking: QuestionState | None = None

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
    return replace(reviewed, problems=_errors_first([*reviewed.problems, *stops]), checking=checking)


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
    errors = any(problem.severity == "error" for problem in problems)
    trials = () if errors else tuple(ablation.expand_trials(draft, grid))
    if table_error is not None and not varies_table(used):
        problems.append(Problem("data.path", table_error.message, table_error.hint))
    for trial in pick_trial_per_value(trials):
        trial_table, table_problems = _run_table(trial.config, table, used)
        problems += table_problems
        problems += preflight_problems(trial.config, trial_table, machine)
    return DraftReview(trials, _first_for_each_message(_errors_first(problems)), ablation.count_trials(used))


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


def value_label(path: str, value: Any) -> str:
    """Return a value as the form shows it: "NF4", "on", "2e-4"."""
    spec = field_specs_by_path().get(path)
    if spec is None:
        return str(value)
    words = form_layout.get_field_layout(path).words
    return words.get(value, summarize_value(spec, value)) if isinstance(value, str) else summarize_value(spec, value)


def tabulate_trials(trials: Sequence[ablation.StudyTrial]) -> list[dict[str, str]]:
    """Return one table row for each trial, with the settings that differ as columns under their labels."""
    differing = [path for path in trials[0].settings if len({repr(v.settings[path]) for v in trials}) > 1]
    return [
        {"Run": str(at), **{setting_label(path): value_label(path, trial.settings[path]) for path in differing}}
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
    return ", ".join(f"{setting_label(path)} {value_label(path, value)}" for path, value in settings.items())


def setting_label(path: str) -> str:
    """Return the label of a setting as the form shows it; the path itself if this version has no such setting."""
    return form_layout.get_field_layout(path).label if path in field_specs_by_path() else path
