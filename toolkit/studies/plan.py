"""The runs of a study: each combination of values that differs from the others, repeated with the same seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.config import Config, DataConfig
from toolkit.data.examples.split import DEFAULT_TEST_SIZE
from toolkit.errors import ConfigError, Problem
from toolkit.settings.ablation import (
    MAX_STUDY_TRIALS,
    StudyTrial,
    ValueGrid,
    count_trials,
    expand_ranges,
    expand_trials,
    read_search_budget,
    uses_ablation,
)
from toolkit.settings.draft import draft_from_config
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.settings.training_content import SEED_PATH, find_idle_reason, hash_training_content
from toolkit.studies.objectives import check_objective
from toolkit.system.printable import format_plural

DEFAULT_SEEDS, MAX_REPEATED_COMBINATIONS = 3, 4
"""Seeds of a study with at most so many combinations; a larger one gets one seed, because it has many runs already."""
SEED_LIMIT = 2**32
MIN_GROWTH_ROWS = 8
"""Training rows below which a quarter of them trains nothing."""


@dataclass(frozen=True)
class StudyPlan:
    """trials: every run to start with, all combinations with the first seed before the second.

    combinations: of those, with one seed each. left_out: warnings on values and combinations that would only repeat
    others. later: combinations that TPE will choose by the results.
    """

    trials: tuple[StudyTrial, ...]
    combinations: int
    seeds: tuple[int, ...]
    left_out: tuple[Problem, ...] = ()
    later: int = 0


def plan_study(draft: Mapping[str, Any], grid: ValueGrid) -> StudyPlan:
    """Return the runs of a draft; the draft's single run when it is no study. Raises ConfigError."""
    trials = expand_trials(draft, grid)
    if uses_ablation(draft):
        check_objective(trials[0].config.ablation.objective, trials[0].config.ablation.pass_rules)
    axes = expand_ranges(draft, dict(grid)) if uses_ablation(draft) else {}
    distinct = list({hash_training_content(trial.config): trial for trial in reversed(trials)}.values())[::-1]
    budget = read_search_budget(draft)
    is_whole = budget is None or count_trials(axes) <= len(trials)
    left_out = _explain_left_out(axes, trials, distinct) if is_whole and len(distinct) < len(trials) else ()
    uses_tpe = uses_ablation(draft) and distinct[0].config.ablation.method == "tpe"
    total = min(budget or 0, count_trials(axes)) if uses_tpe else len(distinct)
    seeds = choose_seeds(distinct[0].config, total, axes)
    if len(seeds) * total > MAX_STUDY_TRIALS and len(seeds) > 1:
        message = f"{total} combinations with {len(seeds)} seeds are {total * len(seeds):,} runs"
        raise ConfigError([Problem("ablation.seeds", f"{message}; the maximum is {MAX_STUDY_TRIALS}.", "Use fewer.")])
    repeated = [repeat_trial(trial, seed) for seed in seeds for trial in distinct] if seeds else distinct
    left_out = (*left_out, *_explain_idle_halving(distinct[0].config, total, seeds))
    return StudyPlan(tuple(repeated), len(distinct), seeds, left_out, total - len(distinct))


def choose_seeds(config: Config, combinations: int, axes: Iterable[str]) -> tuple[int, ...]:
    """Return the training seeds of each combination; none when the study varies the seed itself."""
    paths = set(axes)
    if any(path == SEED_PATH or SEED_PATH.startswith(f"{path}.") for path in paths):
        return ()
    repeats = DEFAULT_SEEDS if paths and 1 < combinations <= MAX_REPEATED_COMBINATIONS else 1
    if config.ablation.use_ablate and config.ablation.seeds is not None:
        repeats = config.ablation.seeds
    first = config.training.training_args.seed
    return tuple((first + at) % SEED_LIMIT for at in range(repeats))


def repeat_trial(trial: StudyTrial, seed: int) -> StudyTrial:
    """Return the trial with this training seed."""
    args = trial.config.training.training_args.model_copy(update={"seed": seed})
    training = trial.config.training.model_copy(update={"training_args": args})
    return replace(trial, config=trial.config.model_copy(update={"training": training}))


def _explain_left_out(
    axes: ValueGrid, trials: Sequence[StudyTrial], distinct: Sequence[StudyTrial]
) -> tuple[Problem, ...]:
    """Return a warning for each value that is listed twice, each axis without effect, and the other combinations."""
    found: list[Problem] = []
    expected = 1
    for path in axes:
        label = name_setting(path)
        values = list({repr(trial.settings[path]): trial.settings[path] for trial in trials}.values())
        if len(values) < len(axes[path]):
            repeats = len(axes[path]) - len(values)
            message = f"{label} lists {format_plural(repeats, 'value')} twice; each value is trained once."
            found.append(Problem(path, message, "", "warning"))
        if len(values) > 1 and len({repr(trial.settings[path]) for trial in distinct}) == 1:
            reason = find_idle_reason(path, draft_from_config(distinct[0].config)) or "they mean the same"
            message = f"All {len(values)} values of {label} give the same training, because {reason}."
            hint = f"Only {describe_value(path, values[0])} is trained."
            found.append(Problem(path, message, hint, "warning"))
        else:
            expected *= len(values)
    if len(distinct) < expected:
        same = f"{expected - len(distinct)} of {expected} combinations would train the same as another one"
        message = f"{same}, because a setting has no effect in them."
        found.append(Problem("", message, "They are skipped.", "warning"))
    return tuple(found)


def _explain_idle_halving(config: Config, combinations: int, seeds: Sequence[int]) -> list[Problem]:
    """Return a warning when successive halving is on and can't leave anything out."""
    if not (config.ablation.use_ablate and config.ablation.prune_losers):
        return []
    path = "ablation.prune_losers"
    if config.ablation.method == "tpe":
        message = "Successive halving has no effect with TPE, which chooses each combination by the results so far."
        return [Problem(path, message, "Choose Grid or Random as the search method to use it.", "warning")]
    if len(seeds) > 1 and combinations > 2:
        return []
    what = f"{format_plural(combinations, 'combination')} with {format_plural(max(1, len(seeds)), 'seed')}"
    message = f"Successive halving has no effect on {what}: it keeps two combinations, and decides after each seed."
    return [Problem(path, message, "Give the study several seeds and at least three combinations.", "warning")]


def choose_data_sizes(data: DataConfig) -> list[float] | list[int] | None:
    """Return a quarter, a half and all of the training rows, as sizes of the split; None if they can't be varied.

    A test file leaves all other rows for training, and a count of test rows leaves an unknown number.
    """
    whole, test = data.train_size, data.test_size
    if data.test_path is not None or (whole is None and isinstance(test, int)):
        return None
    if isinstance(whole, int):
        return [whole // 4, whole // 2, whole] if whole >= MIN_GROWTH_ROWS else None
    share = whole if whole is not None else 1 - (DEFAULT_TEST_SIZE if test is None else test)
    return [round(share / 4, 6), round(share / 2, 6), round(share, 6)]
