"""Studies: a draft and a grid of values become the trials that they mean.

The grid {dotted path: [values]} is kept separately from the draft. In a YAML file a list stands where one value is
expected, as in the original toolkit; for settings that are lists themselves, only a list of lists means several values.
Trials come in the order of nested loops over the grid, with the last path changing fastest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.config import Config
from toolkit.errors import ConfigError, Problem
from toolkit.settings import draft as drafts
from toolkit.settings.field_spec import LIST_KINDS, field_specs_by_path, section_paths
from toolkit.settings.typed_text import (
    expand_value_range,
    is_value_range,
    normalize_text,
    parse_field_text,
    summarize_value,
)
from toolkit.settings.validation import validate_draft
from toolkit.system.ids import draw_places

ValueGrid = dict[str, list[Any]]

MAX_STUDY_TRIALS = 500
"""Trials per study. More are most likely a typing mistake, and each trial is a whole training run."""

DEFAULT_SEARCH_TRIALS = 20
"""Combinations that random search or TPE trains when `ablation.trials` is empty."""
MIN_START_TRIALS, MAX_START_TRIALS = 4, 10
"""Random combinations that TPE begins with: a quarter of its trials, within these limits."""
MAX_COMBINATIONS = 10**9
"""Combinations that a search chooses from."""

STUDY_WIDE_SETTINGS = (
    "save_dir",
    "ablation.use_ablate",
    "ablation.study_name",
    "ablation.seeds",
    "ablation.objective",
    "ablation.pass_rules",
    "ablation.method",
    "ablation.trials",
    "ablation.prune_losers",
    "ablation.stop_when_decided",
    "training.pinned_prompts",
    "training.pinned_rows",
)
"""Settings that belong to the study as a whole and cannot differ between its trials."""


@dataclass(frozen=True)
class StudyTrial:
    """One trial: its complete config, and the values (by path) in which it differs from the other trials."""

    config: Config
    settings: dict[str, Any]


def split_grid(raw: Mapping[str, Any]) -> tuple[drafts.Draft, ValueGrid]:
    """Split the settings of a file into (draft, grid); the draft gets the first value of each list.

    Without `ablation.use_ablate` the grid is empty, and validation reports a list where one value is expected. Raises
    ConfigError with every path that holds an empty list or cannot take several values.
    """
    if not uses_ablation(raw):
        return drafts.fill_defaults(raw), {}
    grid: ValueGrid = {}
    problems: list[Problem] = []
    for path, value in _walk_values(raw, ""):
        value = [value] if is_value_range(field_specs_by_path().get(path), value) else value
        if not has_several_values(path, value):
            continue
        problem = find_value_list_problem(path, value)
        if problem is not None:
            problems.append(problem)
        else:
            spec = field_specs_by_path().get(path)
            grid[path] = [normalize_text(spec, entry) for entry in value] if spec else list(value)
    if problems:
        raise ConfigError(problems)
    single = drafts.fill_defaults(raw)
    for path, values in grid.items():
        single = drafts.replace_setting(drafts.fill_defaults(single), path, pick_first_value(path, values))
    return drafts.fill_defaults(single), grid


def merge_grid(draft: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> drafts.Draft:
    """Return the draft as a YAML file holds it, with the lists of the grid. The inverse of `split_grid`."""
    merged = dict(draft)
    for path, values in grid.items():
        merged = drafts.replace_setting(merged, path, list(values))
    return merged


def pick_first_value(path: str, values: Sequence[Any]) -> Any:
    """Return the first of several values; of a range, its start."""
    spec = field_specs_by_path().get(path)
    if spec is None or not is_value_range(spec, values[0]):
        return values[0]
    return parse_field_text(spec, str(values[0]).split("..")[0])


def expand_ranges(draft: Mapping[str, Any], grid: ValueGrid) -> ValueGrid:
    """Return the grid with the values that its ranges stand for. Raises ConfigError: a range can't be used."""
    expanded, problems = _expand_ranges(draft, grid)
    if problems:
        raise ConfigError(problems)
    return expanded


def _expand_ranges(draft: Mapping[str, Any], grid: ValueGrid) -> tuple[ValueGrid, list[Problem]]:
    expanded, problems = dict(grid), []
    for path, values in grid.items():
        spec = field_specs_by_path().get(path)
        if spec is None or not any(is_value_range(spec, value) for value in values):
            continue
        if read_search_budget(draft) is None:
            hint = "Set Search method to Random or TPE, or list the values."
            problems.append(Problem(path, "A grid trains every listed value, and can't train a range.", hint))
            continue
        try:
            found = [expand_value_range(spec, v) if is_value_range(spec, v) else [v] for v in values]
            expanded[path] = list({repr(v): v for v in itertools.chain.from_iterable(found)}.values())
        except ValueError as error:
            named = ", ".join(str(value)[:40] for value in values)
            problems.append(Problem(path, f"The range can't be used: {error}. It is: {named}.", "Correct the range."))
    return expanded, problems


def has_several_values(path: str, value: Any) -> bool:
    """Return whether a value from a file means several values of that setting."""
    spec = field_specs_by_path().get(path)
    if not isinstance(value, list) or (spec is None and path not in section_paths()):
        return False
    if spec is not None and spec.kind in LIST_KINDS:
        # any inner list counts, at any position: the original looked at the first entry only
        return any(isinstance(member, list) for member in value)
    return True


def find_value_list_problem(path: str, values: list[Any]) -> Problem | None:
    """Return a problem of the list itself; its values are not validated, and duplicates are left out later."""
    if path in STUDY_WIDE_SETTINGS:
        return Problem(
            path, "This setting cannot have several values: it applies to the whole study.", "Keep one value."
        )
    if not values:
        return Problem(path, "The list of values is empty.", "Add a value, or switch back to a single value.")
    return None


def count_trials(grid: Mapping[str, list[Any]]) -> int:
    """Return the number of trials of the grid; 1 for an empty grid."""
    return math.prod(len(values) for values in grid.values())


def read_search_budget(draft: Mapping[str, Any]) -> int | None:
    """Return how many combinations the study trains; None for a grid, which trains all."""
    if not uses_ablation(draft) or drafts.get_setting(draft, "ablation.method") not in ("random", "tpe"):
        return None
    wanted = drafts.get_setting(draft, "ablation.trials")
    # a value that can't be used is reported by the validation of the trials
    return wanted if isinstance(wanted, int) and wanted > 0 else DEFAULT_SEARCH_TRIALS


def draw_combinations(grid: ValueGrid, seed: Any) -> Iterator[dict[str, Any]]:
    """Yield every combination once, in random order: the first ones of a seed are the same however many are taken."""
    for place in draw_places(count_trials(grid), str(seed)):
        chosen: dict[str, Any] = {}
        for path, values in grid.items():
            place, at = divmod(place, len(values))
            chosen[path] = values[at]
        yield chosen


def expand_combination(draft: Mapping[str, Any], settings: Mapping[str, Any]) -> StudyTrial:
    """Return the trial with these values. Raises ConfigError when they can't be combined."""
    trials, problems = _validate_combinations(draft, [dict(settings)], 1)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    return trials[0]


def uses_ablation(draft: Mapping[str, Any]) -> bool:
    """Return whether the draft is a study."""
    return drafts.get_setting(draft, "ablation.use_ablate") is True


def check_value_grid(draft: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> list[Problem]:
    """Return all errors and warnings of the study. A problem of the study as a whole has an empty path."""
    return _validate_trials(draft, grid)[1]


def expand_trials(draft: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> list[StudyTrial]:
    """Return the trials that the study starts with; without use_ablate, the draft's single run.

    Those are all combinations, the last path changing fastest; of a search, as many as were drawn at random.

    Raises ConfigError with the problems of all combinations, or for more than MAX_STUDY_TRIALS trials.
    """
    trials, problems = _validate_trials(draft, grid)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        raise ConfigError(errors)
    return trials


def _validate_trials(draft: Mapping[str, Any], grid: Mapping[str, list[Any]]) -> tuple[list[StudyTrial], list[Problem]]:
    used, unclear = _expand_ranges(draft, dict(grid)) if uses_ablation(draft) else ({}, [])
    if unclear:
        return [], unclear
    listed = [find_value_list_problem(path, values) for path, values in used.items()]
    problems = [problem for problem in listed if problem is not None]
    if problems:
        return [], problems
    budget = read_search_budget(draft)
    if count_trials(used) > (MAX_STUDY_TRIALS if budget is None else MAX_COMBINATIONS):
        message = f"The study has {count_trials(used):,} trials; the maximum is {MAX_STUDY_TRIALS}."
        hint = "Remove some of the values, or set Search method to Random or TPE, which train some of the combinations."
        return [], [Problem("", message, hint if budget is None else "Remove some of the values.")]
    if budget is None:
        combinations = [dict(zip(used, values, strict=True)) for values in itertools.product(*used.values())]
        return _validate_combinations(draft, combinations, len(combinations))
    # every value is validated, drawn or not, so that a study does not stop at a wrong one days later
    drawn = list(itertools.islice(draw_combinations(used, _search_seed(draft)), _count_start_trials(draft, budget)))
    rest = [one for one in _vary_each_value(used) if not any(repr(one) == repr(other) for other in drawn)]
    trials, problems = _validate_combinations(draft, [*drawn, *rest], len(drawn) + len(rest))
    return trials[: len(drawn)], problems


def _search_seed(draft: Mapping[str, Any]) -> Any:
    return drafts.get_setting(draft, "training.training_args.seed")


def _count_start_trials(draft: Mapping[str, Any], budget: int) -> int:
    if drafts.get_setting(draft, "ablation.method") == "random":
        return budget
    return min(budget, max(MIN_START_TRIALS, min(MAX_START_TRIALS, budget // 4)))


def _vary_each_value(grid: ValueGrid) -> list[dict[str, Any]]:
    """Return a combination with each value: the first values, one of which is replaced."""
    first = {path: values[0] for path, values in grid.items()}
    return [{**first, path: value} for path, values in grid.items() for value in values]


def list_axis_values(draft: Mapping[str, Any], grid: ValueGrid) -> ValueGrid:
    """Return the distinct values of each axis as validation reads them, such as 1e-4 for the text "1e-4"."""
    grid = expand_ranges(draft, grid)
    trials, _ = _validate_combinations(draft, _vary_each_value(grid), 1)
    return {path: list({repr(one.settings[path]): one.settings[path] for one in trials}.values()) for path in grid}


def _validate_combinations(
    draft: Mapping[str, Any], combinations: Sequence[dict[str, Any]], total: int
) -> tuple[list[StudyTrial], list[Problem]]:
    trials: list[StudyTrial] = []
    found: dict[Problem, list[dict[str, Any]]] = {}
    for settings in combinations:
        config, problems = validate_draft(drafts.fill_in_values(draft, settings))
        for problem in problems:
            found.setdefault(problem, []).append(settings)
        if config is not None:
            # the values as validation read them, such as 1e-4 for the text "1e-4"
            checked = drafts.draft_from_config(config)
            trials.append(StudyTrial(config, {path: drafts.get_setting(checked, path) for path in settings}))
    return trials, [_name_affected_trials(problem, affected, total) for problem, affected in found.items()]


def _name_affected_trials(problem: Problem, affected: list[dict[str, Any]], total: int) -> Problem:
    """Add to the message which trials have the problem, unless all of them have it."""
    if len(affected) == total:
        return problem
    same = {path: value for path, value in affected[0].items() if all(other[path] == value for other in affected)}
    specs = field_specs_by_path()
    named = ", ".join(
        f"{path.rpartition('.')[2]} {summarize_value(specs[path], value) if path in specs else value}"
        for path, value in (same or affected[0]).items()
    )
    message = f"{problem.message} In {len(affected)} of {total} trials{'' if same else ', first'}: {named}."
    return Problem(problem.path, message, problem.hint, problem.severity)


def _walk_values(raw: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _walk_values(value, f"{path}.")
        else:
            yield path, value
