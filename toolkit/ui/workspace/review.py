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
from toolkit.data.read_options import SOURCE
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import Table
from toolkit.errors import DataError, Problem
from toolkit.runs.preflight import preflight
from toolkit.runs.run_dir import save_dir_of
from toolkit.services.warm_client import Look
from toolkit.settings import ablation, form_layout
from toolkit.settings.field_spec import by_path
from toolkit.settings.typed_text import say
from toolkit.system.machine import Machine, machine_if_known
from toolkit.ui.workspace import hard_stop_view, workspace


@dataclass(frozen=True)
class Review:
    """variants: the runs, none while something is wrong with one. problems: errors first, then warnings.

    checking: the search for hard stops in the rows, while it goes on.
    """

    variants: tuple[ablation.Variant, ...]
    problems: tuple[Problem, ...]
    runs: int
    checking: Look | None = None

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def review(wait: float = 0.0) -> Review:
    """The review of the session's draft. wait: seconds to wait for the search for hard stops in the rows."""
    draft, grid, table = workspace.draft(), workspace.grid(), workspace.table()
    machine = machine_if_known(workspace.save_dir())
    error = workspace.table_error()
    key = json.dumps([draft, grid, table.sha256 if table else str(error), repr(machine)], sort_keys=True, default=str)
    held = st.session_state.get("review")
    if held is None or held[0] != key:
        st.session_state["review"] = held = (key, look(draft, grid, table, error, machine))
    found = cast(Review, held[1])
    varied = ablation.uses_ablation(draft) and varies_table(grid)
    stops, checking = hard_stop_view.problems(found.variants, None if varied else table, wait)
    return replace(found, problems=_errors_first([*found.problems, *stops]), checking=checking)


def look(
    draft: Mapping[str, Any],
    grid: ablation.Grid,
    table: Table | None,
    table_error: DataError | None,
    machine: Machine | None,
) -> Review:
    """Every problem of the draft or of any run of its study."""
    used = grid if ablation.uses_ablation(draft) else {}
    problems = ablation.check(draft, grid)
    errors = any(problem.severity == "error" for problem in problems)
    variants = () if errors else tuple(ablation.expand(draft, grid))
    if table_error is not None and not varies_table(used):
        problems.append(Problem("data.path", table_error.message, table_error.hint))
    for variant in one_for_each_value(variants):
        own, missing = _table_of(variant.config, table, used)
        problems += missing
        problems += preflight(variant.config, own, machine)
    return Review(variants, _first_for_each_message(_errors_first(problems)), ablation.size(used))


def one_for_each_value(variants: Iterable[ablation.Variant]) -> list[ablation.Variant]:
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
    return not {"data", *(f"data.{name}" for name in SOURCE)}.isdisjoint(paths)


def table_for(config: Config) -> Table:
    """The dataset of one run; raises DataError."""
    return open_table(config.data, save_dir_of(config))


def value_words(path: str, value: Any) -> str:
    """A value as the form names it: "NF4", "on", "2e-4"."""
    spec = by_path().get(path)
    if spec is None:
        return str(value)
    words = form_layout.place(path).words
    return words.get(value, say(spec, value)) if isinstance(value, str) else say(spec, value)


def runs_table(variants: Sequence[ablation.Variant]) -> list[dict[str, str]]:
    """One row a run, only the settings that differ, under their labels."""
    differing = [path for path in variants[0].settings if len({repr(v.settings[path]) for v in variants}) > 1]
    return [
        {"Run": str(at), **{_heading(path): value_words(path, variant.settings[path]) for path in differing}}
        for at, variant in enumerate(variants, start=1)
    ]


def variant_name(variant: ablation.Variant) -> str:
    """ "Rank (r) 8, Learning rate 2e-4": what tells a run from the others of its study."""
    return ", ".join(f"{_heading(path)} {value_words(path, value)}" for path, value in variant.settings.items())


def _heading(path: str) -> str:
    return form_layout.place(path).label if path in by_path() else path


def _table_of(config: Config, table: Table | None, used: ablation.Grid) -> tuple[Table | None, list[Problem]]:
    if not varies_table(used):
        return table, []
    try:
        return table_for(config), []
    except DataError as error:
        return None, [Problem("data.path", error.message, error.hint)]


def _errors_first(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.severity == "warning"))


def _first_for_each_message(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    found: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        found.setdefault((problem.path, problem.message), problem)
    return tuple(found.values())


def named(settings: Mapping[str, Any]) -> str:
    """Settings in the form's own words: "Rank (r) 8, Learning rate 2e-4"."""
    return ", ".join(f"{heading(path)} {value_words(path, value)}" for path, value in settings.items())


def heading(path: str) -> str:
    """The label of a setting as the form shows it; the path itself for one that this version does not know."""
    return form_layout.place(path).label if path in by_path() else path
