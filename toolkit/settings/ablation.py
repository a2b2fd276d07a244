"""A draft and several values for some of its settings -> the runs that this means.

The values lie *beside* the draft, in a grid {dotted path: [values]}; in a YAML file they stand in the form of the
original toolkit, a list where one value is expected. For settings that are lists themselves only a list of lists means
several values. Runs come in the order of nested loops over the grid, the last path changing fastest. Knows no file
and no form.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem
from toolkit.settings import draft as drafts
from toolkit.settings.field_spec import LIST_KINDS, field_specs_by_path, section_paths
from toolkit.settings.typed_text import normalize_text, summarize_value
from toolkit.settings.validation import validate_draft

ValueGrid = dict[str, list[Any]]

MAX_STUDY_TRIALS = 500
"""Runs that one study may have: more than this is a slip of the finger, and a queue nobody waits for."""

STUDY_WIDE_SETTINGS = (
    "save_dir",
    "ablation.use_ablate",
    "ablation.study_name",
    "training.pinned_prompts",
    "training.pinned_rows",
)
"""Settings of the study as a whole: two values would tear it into two studies."""


@dataclass(frozen=True)
class StudyTrial:
    """One run of a study: its whole config, and the values that tell it from the others, by path."""

    config: Config
    settings: dict[str, Any]


def split_grid(raw: Mapping[str, Any]) -> tuple[drafts.Draft, ValueGrid]:
    """Part a file's settings into (draft, grid); in the draft stands the first value of each.

    Without `ablation.use_ablate` nothing is parted: a list where one value is expected is then an error that validation
    words. Raises ConfigError with every path that holds an empty list or can't take several values.
    """
    if not uses_ablation(raw):
        return drafts.fill_defaults(raw), {}
    grid: ValueGrid = {}
    problems: list[Problem] = []
    for path, value in _walk_values(raw, ""):
        if not has_several_values(path, value):
            continue
        problem = find_value_list_problem(path, value)
        if problem is not None:
            problems.append(problem)
        else:
            spec = field_specs_by_path().get(path)
            grid[path] = [normalize_text(spec, one) for one in value] if spec else list(value)
    if problems:
        raise ConfigError(problems)
    single = drafts.fill_defaults(raw)
    for path, values in grid.items():
        single = drafts.replace_setting(drafts.fill_defaults(single), path, values[0])
    return drafts.fill_defaults(single), grid


def merge_grid(draft: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> drafts.Draft:
    """The draft in the YAML form: a list of values where the grid has several. `split_grid` undoes it."""
    merged = dict(draft)
    for path, values in grid.items():
        merged = drafts.replace_setting(merged, path, list(values))
    return merged


def has_several_values(path: str, value: Any) -> bool:
    """Whether a file's value means several values."""
    spec = field_specs_by_path().get(path)
    if not isinstance(value, list) or (spec is None and path not in section_paths()):
        return False
    if spec is not None and spec.kind in LIST_KINDS:
        # any inner list counts, wherever it stands: the original looked at the first member alone
        return any(isinstance(member, list) for member in value)
    return True


def find_value_list_problem(path: str, values: list[Any]) -> Problem | None:
    """What is wrong with the list itself, whatever its values are."""
    if path in STUDY_WIDE_SETTINGS:
        return Problem(path, "One study has one value here.", "Keep one value.")
    if not values:
        return Problem(path, "The list of values is empty.", "Give at least one value, or go back to a single one.")
    seen = [json.dumps(value, sort_keys=True, default=str) for value in values]
    twice = next((value for at, value in enumerate(values) if seen[at] in seen[:at]), _NO_DUPLICATE)
    if twice is not _NO_DUPLICATE:
        return Problem(
            path, f"{_format_setting(path, twice)} is listed twice.", "Remove one: both runs would be the same."
        )
    return None


def count_trials(grid: Mapping[str, list[Any]]) -> int:
    """How many runs the grid means; 1 for an empty one."""
    return math.prod(len(values) for values in grid.values())


def uses_ablation(draft: Mapping[str, Any]) -> bool:
    return drafts.get_setting(draft, "ablation.use_ablate") is True


def check_value_grid(
    draft: Mapping[str, Any], grid: Mapping[str, list[Any]], cap: int = MAX_STUDY_TRIALS
) -> list[Problem]:
    """Everything that keeps the grid from becoming runs, and the warnings; empty paths stand for the whole study."""
    return _validate_trials(draft, grid, cap)[1]


def expand_trials(
    draft: Mapping[str, Any], grid: Mapping[str, list[Any]], cap: int = MAX_STUDY_TRIALS
) -> list[StudyTrial]:
    """Every run of the study, the last path fastest; without use_ablate the one run of the draft.

    Raises ConfigError with every problem of every combination, or when there would be more than `cap` runs.
    """
    variants, problems = _validate_trials(draft, grid, cap)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    return variants


def _validate_trials(
    draft: Mapping[str, Any], grid: Mapping[str, list[Any]], cap: int
) -> tuple[list[StudyTrial], list[Problem]]:
    used = dict(grid) if uses_ablation(draft) else {}
    listed = [find_value_list_problem(path, values) for path, values in used.items()]
    problems = [problem for problem in listed if problem is not None]
    if problems:
        return [], problems
    if count_trials(used) > cap:
        message = f"{count_trials(used):,} runs are more than one study may have ({cap})."
        return [], [Problem("", message, "Take fewer values.")]
    variants: list[StudyTrial] = []
    found: dict[Problem, list[dict[str, Any]]] = {}
    for values in itertools.product(*used.values()):
        settings = dict(zip(used, values, strict=True))
        config, problems = validate_draft(_fill_in_values(draft, settings))
        for problem in problems:
            found.setdefault(problem, []).append(settings)
        if config is not None:
            variants.append(
                StudyTrial(config, {path: drafts.get_setting(drafts.draft_from_config(config), path) for path in used})
            )
    return variants, [_name_affected_trials(problem, where, count_trials(used)) for problem, where in found.items()]


def _fill_in_values(draft: Mapping[str, Any], settings: Mapping[str, Any]) -> drafts.Draft:
    filled = dict(draft)
    for path, value in settings.items():
        below = drafts.get_setting(filled, path)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        filled = drafts.replace_setting(filled, path, drafts.overlay_settings(below, value) if both else value)
    return filled


def _name_affected_trials(problem: Problem, where: list[dict[str, Any]], total: int) -> Problem:
    """Say which combinations a problem belongs to, when it is not all of them."""
    if len(where) == total:
        return problem
    same = {path: value for path, value in where[0].items() if all(other[path] == value for other in where)}
    named = ", ".join(
        f"{path.rpartition('.')[2]} {_format_setting(path, value)}" for path, value in (same or where[0]).items()
    )
    message = f"{problem.message} In {len(where)} of {total} runs{'' if same else ', first'}: {named}."
    return Problem(problem.path, message, problem.hint, problem.severity)


def _walk_values(raw: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _walk_values(value, f"{path}.")
        else:
            yield path, value


def _format_setting(path: str, value: Any) -> str:
    spec = field_specs_by_path().get(path)
    return summarize_value(spec, value) if spec else str(value)


_NO_DUPLICATE = object()
