"""What the draft would start, and what is wrong with it: one look at settings, study, data and machine together.

Computed once for the same draft, grid, table and machine; a session holds the last one. Draws nothing.
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
    """variants: the runs, none while something is wrong with one. problems: errors first, then warnings.

    checking: the search for hard stops in the rows, while it goes on.
    """

    variants: tuple[ablation.StudyTrial, ...]
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
    """The review of the session's draft. wait: seconds to wait for the search for hard stops in the rows."""
    draft, grid, table = workspace.current_draft(), workspace.current_grid(), workspace.current_table()
    machine = read_known_machine(workspace.current_save_dir())
    error = workspace.table_error()
    key = json.dumps([draft, grid, table.sha256 if table else str(error), repr(machine)], sort_keys=True, default=str)
    held = st.session_state.get("review")
    if held is None or held[0] != key:
        st.session_state["review"] = held = (key, review_settings(draft, grid, table, error, machine))
    found = cast(DraftReview, held[1])
    varied = ablation.uses_ablation(draft) and varies_table(grid)
    stops, checking = hard_stop_view.find_hard_stop_problems(found.variants, None if varied else table, wait)
    return replace(found, problems=_errors_first([*found.problems, *stops]), checking=checking)


def review_settings(
    draft: Mapping[str, Any],
    grid: ablation.ValueGrid,
    table: Table | None,
    table_error: DataError | None,
    machine: Machine | None,
) -> DraftReview:
    """Every problem of the draft or of any run of its study."""
    used = grid if ablation.uses_ablation(draft) else {}
    problems = ablation.check_value_grid(draft, grid)
    errors = any(problem.severity == "error" for problem in problems)
    variants = () if errors else tuple(ablation.expand_trials(draft, grid))
    if table_error is not None and not varies_table(used):
        problems.append(Problem("data.path", table_error.message, table_error.hint))
    for variant in pick_trial_per_value(variants):
        own, missing = _run_table(variant.config, table, used)
        problems += missing
        problems += preflight_problems(variant.config, own, machine)
    return DraftReview(variants, _first_for_each_message(_errors_first(problems)), ablation.count_trials(used))


def pick_trial_per_value(variants: Iterable[ablation.StudyTrial]) -> list[ablation.StudyTrial]:
    """The first run with each value of each setting: what depends on machine and data rarely needs every pair."""
    seen: set[tuple[str, str]] = set()
    chosen = []
    for at, variant in enumerate(variants):
        new = {(path, repr(value)) for path, value in variant.settings.items()} - seen
        if new or at == 0:
            chosen.append(variant)
            seen |= new
    return chosen


def varies_table(paths: Iterable[str]) -> bool:
    """Whether runs that differ in these settings may have different tables."""
    return not {"data", *(f"data.{name}" for name in SOURCE_SETTINGS)}.isdisjoint(paths)


def open_run_table(config: Config) -> Table:
    """The dataset of one run; raises DataError."""
    return open_table(config.data, save_dir_of(config))


def value_label(path: str, value: Any) -> str:
    """A value as the form names it: "NF4", "on", "2e-4"."""
    spec = field_specs_by_path().get(path)
    if spec is None:
        return str(value)
    words = form_layout.get_field_layout(path).words
    return words.get(value, summarize_value(spec, value)) if isinstance(value, str) else summarize_value(spec, value)


def tabulate_trials(variants: Sequence[ablation.StudyTrial]) -> list[dict[str, str]]:
    """One row a run, only the settings that differ, under their labels."""
    differing = [path for path in variants[0].settings if len({repr(v.settings[path]) for v in variants}) > 1]
    return [
        {"Run": str(at), **{_heading(path): value_label(path, variant.settings[path]) for path in differing}}
        for at, variant in enumerate(variants, start=1)
    ]


def variant_name(variant: ablation.StudyTrial) -> str:
    """ "LoRA rank (r) 8, Learning rate 2e-4": what tells a run from the others of its study."""
    return ", ".join(f"{_heading(path)} {value_label(path, value)}" for path, value in variant.settings.items())


def _heading(path: str) -> str:
    return form_layout.get_field_layout(path).label if path in field_specs_by_path() else path


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
    """Settings in the form's own words: "LoRA rank (r) 8, Learning rate 2e-4"."""
    return ", ".join(f"{setting_label(path)} {value_label(path, value)}" for path, value in settings.items())


def setting_label(path: str) -> str:
    """The label of a setting as the form shows it; the path itself for one that this version does not know."""
    return form_layout.get_field_layout(path).label if path in field_specs_by_path() else path
