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
from toolkit.settings.field_spec import LISTS, by_path, sections
from toolkit.settings.typed_text import say, settle
from toolkit.settings.validation import validate

Grid = dict[str, list[Any]]

CAP = 500
"""Runs that one study may have: more than this is a slip of the finger, and a queue nobody waits for."""

FIXED = ("save_dir", "ablation.use_ablate", "ablation.study_name", "training.pinned_prompts", "training.pinned_rows")
"""Settings of the study as a whole: two values would tear it into two studies."""


@dataclass(frozen=True)
class Variant:
    """One run of a study: its whole config, and the values that tell it from the others, by path."""

    config: Config
    settings: dict[str, Any]


def split_grid(raw: Mapping[str, Any]) -> tuple[drafts.Draft, Grid]:
    """Part a file's settings into (draft, grid); in the draft stands the first value of each.

    Without `ablation.use_ablate` nothing is parted: a list where one value is expected is then an error that validation
    words. Raises ConfigError with every path that holds an empty list or can't take several values.
    """
    if not uses_ablation(raw):
        return drafts.complete(raw), {}
    grid: Grid = {}
    problems: list[Problem] = []
    for path, value in _entries(raw, ""):
        if not is_sweep(path, value):
            continue
        problem = list_problem(path, value)
        if problem is not None:
            problems.append(problem)
        else:
            spec = by_path().get(path)
            grid[path] = [settle(spec, one) for one in value] if spec else list(value)
    if problems:
        raise ConfigError(problems)
    single = drafts.complete(raw)
    for path, values in grid.items():
        single = drafts.put(drafts.complete(single), path, values[0])
    return drafts.complete(single), grid


def merge_grid(draft: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> drafts.Draft:
    """The draft in the YAML form: a list of values where the grid has several. `split_grid` undoes it."""
    merged = dict(draft)
    for path, values in grid.items():
        merged = drafts.put(merged, path, list(values))
    return merged


def is_sweep(path: str, value: Any) -> bool:
    """Whether a file's value means several values."""
    spec = by_path().get(path)
    if not isinstance(value, list) or (spec is None and path not in sections()):
        return False
    if spec is not None and spec.kind in LISTS:
        # any inner list counts, wherever it stands: the original looked at the first member alone
        return any(isinstance(member, list) for member in value)
    return True


def list_problem(path: str, values: list[Any]) -> Problem | None:
    """What is wrong with the list itself, whatever its values are."""
    if path in FIXED:
        return Problem(path, "One study has one value here.", "Keep one value.")
    if not values:
        return Problem(path, "The list of values is empty.", "Give at least one value, or go back to a single one.")
    seen = [json.dumps(value, sort_keys=True, default=str) for value in values]
    twice = next((value for at, value in enumerate(values) if seen[at] in seen[:at]), _NOTHING)
    if twice is not _NOTHING:
        return Problem(path, f"{_shown(path, twice)} is listed twice.", "Remove one: both runs would be the same.")
    return None


def size(grid: Mapping[str, list[Any]]) -> int:
    """How many runs the grid means; 1 for an empty one."""
    return math.prod(len(values) for values in grid.values())


def uses_ablation(draft: Mapping[str, Any]) -> bool:
    return drafts.get(draft, "ablation.use_ablate") is True


def check(draft: Mapping[str, Any], grid: Mapping[str, list[Any]], cap: int = CAP) -> list[Problem]:
    """Everything that keeps the grid from becoming runs, and the warnings; empty paths stand for the whole study."""
    return _expanded(draft, grid, cap)[1]


def expand(draft: Mapping[str, Any], grid: Mapping[str, list[Any]], cap: int = CAP) -> list[Variant]:
    """Every run of the study, the last path fastest; without use_ablate the one run of the draft.

    Raises ConfigError with every problem of every combination, or when there would be more than `cap` runs.
    """
    variants, problems = _expanded(draft, grid, cap)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    return variants


def _expanded(draft: Mapping[str, Any], grid: Mapping[str, list[Any]], cap: int) -> tuple[list[Variant], list[Problem]]:
    used = dict(grid) if uses_ablation(draft) else {}
    listed = [list_problem(path, values) for path, values in used.items()]
    problems = [problem for problem in listed if problem is not None]
    if problems:
        return [], problems
    if size(used) > cap:
        message = f"{size(used):,} runs are more than one study may have ({cap})."
        return [], [Problem("", message, "Take fewer values.")]
    variants: list[Variant] = []
    found: dict[Problem, list[dict[str, Any]]] = {}
    for values in itertools.product(*used.values()):
        settings = dict(zip(used, values, strict=True))
        config, problems = validate(_filled(draft, settings))
        for problem in problems:
            found.setdefault(problem, []).append(settings)
        if config is not None:
            variants.append(Variant(config, {path: drafts.get(drafts.from_config(config), path) for path in used}))
    return variants, [_placed(problem, where, size(used)) for problem, where in found.items()]


def _filled(draft: Mapping[str, Any], settings: Mapping[str, Any]) -> drafts.Draft:
    filled = dict(draft)
    for path, value in settings.items():
        below = drafts.get(filled, path)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        filled = drafts.put(filled, path, drafts.overlay(below, value) if both else value)
    return filled


def _placed(problem: Problem, where: list[dict[str, Any]], total: int) -> Problem:
    """Say which combinations a problem belongs to, when it is not all of them."""
    if len(where) == total:
        return problem
    same = {path: value for path, value in where[0].items() if all(other[path] == value for other in where)}
    named = ", ".join(f"{path.rpartition('.')[2]} {_shown(path, value)}" for path, value in (same or where[0]).items())
    message = f"{problem.message} In {len(where)} of {total} runs{'' if same else ', first'}: {named}."
    return Problem(problem.path, message, problem.hint, problem.severity)


def _entries(raw: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _entries(value, f"{path}.")
        else:
            yield path, value


def _shown(path: str, value: Any) -> str:
    spec = by_path().get(path)
    return say(spec, value) if spec else str(value)


_NOTHING = object()
