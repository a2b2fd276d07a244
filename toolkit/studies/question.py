"""What a study asks: one small file, `<save_dir>/studies/<id>/study.json`, written when the study is started.

The results are not in it: they follow from the directories of the runs. A study from before this file existed is read
from its runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from toolkit.config import Config
from toolkit.errors import Problem, RunError
from toolkit.field_types import StudyMethod, StudyObjective
from toolkit.settings.ablation import StudyTrial, ValueGrid, list_axis_values, read_search_budget
from toolkit.settings.draft import draft_from_config, get_setting, replace_setting
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.settings.training_content import SEED_PATH, SOURCE_PATHS, find_effective_settings, hash_training_content
from toolkit.settings.yaml_file import with_absolute_paths
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import describe_read_error, read_foreign_json

STUDY_SCHEMA = 1
MAX_LISTED_VALUES = 12
"""Values of a setting that a message lists; of more, the ends."""
Axes = dict[str, list[Any]]


@dataclass(frozen=True)
class AskedTrial:
    """One planned run. content: of `hash_training_content`, by which its run is found."""

    settings: dict[str, Any]
    seed: int
    content: str


@dataclass(frozen=True)
class StudyQuestion:
    """axes: values by path. settings: all other settings that have an effect. datasets: hashes of the tables.

    budget: combinations that a search trains. draft: the settings from which TPE makes further trials, else empty.
    rules: pass rules as JSON, for the objective of that name. repeats: seeds of each combination.
    prune_losers: after each seed, the better half goes on. stop_when_decided: no further run starts once the verdict
    has settled.
    """

    name: str
    axes: Axes
    trials: tuple[AskedTrial, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    objective: StudyObjective | None = None
    rules: str = ""
    method: StudyMethod = "grid"
    budget: int | None = None
    repeats: tuple[int, ...] = ()
    prune_losers: bool = False
    stop_when_decided: bool = False
    draft: dict[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(trial.seed for trial in self.trials))


_QUESTION = TypeAdapter(StudyQuestion)


def ask_study(
    name: str,
    trials: Sequence[StudyTrial],
    datasets: Sequence[str],
    draft: Mapping[str, Any] | None = None,
    grid: ValueGrid | None = None,
) -> StudyQuestion:
    """Return what these trials ask. datasets: the SHA-256 of each trial's table. draft, grid: needed for a search."""
    asked = [
        AskedTrial(trial.settings, trial.config.training.training_args.seed, hash_trial_content(trial.config, dataset))
        for trial, dataset in zip(trials, datasets, strict=True)
    ]
    first = trials[0].config
    found = ask_study_of_runs(name, asked, first, datasets)
    budget = read_search_budget(draft or {})
    if draft is None or not grid or budget is None:
        return found
    axes = list_axis_values(draft, grid)
    repeats = tuple(dict.fromkeys(trial.seed for trial in asked)) if SEED_PATH not in axes else ()
    method = first.ablation.method or "grid"
    kept = _with_own_paths(draft, first) if method == "tpe" else {}
    return replace(found, axes=axes, method=method, budget=budget, repeats=repeats, draft=kept)


def _with_own_paths(draft: Mapping[str, Any], first: Config) -> dict[str, Any]:
    """Return the draft with the absolute paths of a config: it may be read by a program that runs elsewhere."""
    absolute = draft_from_config(with_absolute_paths(first))
    kept = dict(draft)
    for path in ("data.path", "data.test_path", "model.hf_model_ckpt"):
        kept = replace_setting(kept, path, get_setting(absolute, path))
    return kept


def hash_trial_content(config: Config, dataset: str) -> str:
    """Return the content of a trial, as its run will store it. dataset: SHA-256 of its table."""
    return hash_training_content(with_absolute_paths(config), dataset)


def ask_study_of_runs(name: str, trials: Sequence[AskedTrial], first: Config, datasets: Sequence[str]) -> StudyQuestion:
    """Return what these trials ask, whether they have run or not. first: the config of the first one."""
    axes: Axes = {}
    for trial in trials:
        for path, value in trial.settings.items():
            values = axes.setdefault(path, [])
            if repr(value) not in map(repr, values):
                values.append(value)
    return StudyQuestion(
        name=clean_study_name(name),
        axes=axes,
        trials=tuple({(trial.content, repr(trial.settings)): trial for trial in trials}.values()),
        settings=_find_shared_settings(first, axes),
        datasets=tuple(dict.fromkeys(datasets)),
        objective=first.ablation.objective,
        rules=first.ablation.pass_rules or "",
        prune_losers=first.ablation.prune_losers,
        stop_when_decided=first.ablation.stop_when_decided,
    )


def clean_study_name(name: str) -> str:
    """Return a name without outer white space, as it is stored with the runs."""
    return name.strip()[:200]


def _find_shared_settings(config: Config, axes: Iterable[str]) -> dict[str, Any]:
    varied = (*axes, SEED_PATH, *SOURCE_PATHS)
    return {
        path: value
        for path, value in find_effective_settings(with_absolute_paths(config)).items()
        if not any(path == axis or path.startswith(f"{axis}.") for axis in varied)
    }


def study_folder(save_dir: Path, name: str) -> Path:
    """Return the folder of a study; its name is a label and never part of a path."""
    return save_dir / "studies" / hashlib.sha256(clean_study_name(name).encode()).hexdigest()[:12]


def write_question(save_dir: Path, question: StudyQuestion) -> None:
    """Write what is asked. Raises RunError."""
    path = study_folder(save_dir, question.name) / "study.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable_write(path, json.dumps({"schema": STUDY_SCHEMA, **asdict(question)}, indent=1, ensure_ascii=False))
    except OSError as error:
        raise RunError(f"The study can't be written to {path.parent}: {error}.", "Free space there.") from error


def read_question(save_dir: Path, name: str) -> StudyQuestion | None:
    """Return what a study asks; None if there is no file. Raises RunError: damaged, or from a newer version."""
    path = study_folder(save_dir, name) / "study.json"
    return _read_question_file(path) if path.is_file() else None


def list_questions(save_dir: Path) -> tuple[list[StudyQuestion], list[RunError]]:
    """Return what every study asks, and the errors of the files that can't be read."""
    found: list[StudyQuestion] = []
    errors: list[RunError] = []
    for path in sorted((save_dir / "studies").glob("*/study.json")):
        try:
            found.append(_read_question_file(path))
        except RunError as error:
            errors.append(error)
    return found, errors


def _read_question_file(path: Path) -> StudyQuestion:
    try:
        body = dict(read_foreign_json(path))
        schema = int(body.pop("schema"))
        if schema > STUDY_SCHEMA:
            raise RunError(f"{path} was written by a newer version (schema {schema}).", "Update the toolkit.")
        found = _QUESTION.validate_python(body)
        if study_folder(path.parents[2], found.name).name != path.parent.name:
            raise ValueError(f"it names the study '{found.name[:80]}', whose folder is another one")
        return found
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "Delete this file; the runs of the study are kept."
        raise RunError(f"{path} can't be read: {describe_read_error(error)}.", hint) from error


def find_question_conflict(old: StudyQuestion, new: StudyQuestion) -> Problem | None:
    """Return why the new question can't continue the old study of that name; None if it can."""
    name = f"The study '{new.name}' already exists"
    hint = f"Choose another study name, for example '{new.name} 2', or use the same values to continue it."
    if _comparable_axes(old.axes) != _comparable_axes(new.axes):
        message = f"{name} with other values: {describe_axes(old.axes)}. Now: {describe_axes(new.axes)}."
        return Problem("ablation.study_name", message, hint)
    changed = [
        f"{name_setting(path)} {describe_value(path, old.settings[path])} instead of {describe_value(path, value)}"
        for path, value in new.settings.items()
        if path in old.settings and repr(old.settings[path]) != repr(value)
    ]
    if set(old.datasets) != set(new.datasets):
        changed.append("another dataset")
    if not changed:
        return None
    shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")
    return Problem("ablation.study_name", f"{name} with other settings: {shown}.", hint.replace("values", "settings"))


def merge_questions(old: StudyQuestion, new: StudyQuestion) -> StudyQuestion:
    """Return the new question with the trials of the old one: more seeds are added, none is forgotten."""
    trials = {(trial.content, repr(trial.settings)): trial for trial in (*old.trials, *new.trials)}
    return replace(new, trials=tuple(trials.values()), settings={**old.settings, **new.settings})


def list_missing_seeds(question: StudyQuestion) -> list[tuple[dict[str, Any], list[int]]]:
    """Return each combination that is not planned with every seed of the question, and the seeds that it lacks."""
    seeds: dict[str, set[int]] = {}
    settings = {}
    for trial in question.trials:
        key = repr(sorted(trial.settings.items()))
        settings[key] = trial.settings
        seeds.setdefault(key, set()).add(trial.seed)
    missing = {key: [seed for seed in question.repeats if seed not in found] for key, found in seeds.items()}
    return [(settings[key], lacking) for key, lacking in missing.items() if lacking]


def _comparable_axes(axes: Mapping[str, Sequence[Any]]) -> dict[str, set[str]]:
    return {path: {json.dumps(value, sort_keys=True) for value in values} for path, values in axes.items()}


def describe_axes(axes: Mapping[str, Sequence[Any]]) -> str:
    """Return for example "LoRA rank (r) 4, 8; Learning rate 1e-3, 2e-3"."""
    parts = (f"{name_setting(path)} {_describe_values(path, axes[path])}" for path in axes)
    return "; ".join(parts) or "no setting"


def _describe_values(path: str, values: Sequence[Any]) -> str:
    if len(values) <= MAX_LISTED_VALUES:
        return ", ".join(describe_value(path, value) for value in values)
    low, high = describe_ends(path, values)
    return f"{low} to {high} ({len(values)} values)"


def describe_ends(path: str, values: Sequence[Any]) -> tuple[str, str]:
    """Return the smallest and the largest value as the form shows them; of other values, the first and the last."""
    are_numbers = all(isinstance(value, int | float) for value in values)
    ordered = sorted(values) if are_numbers else list(values)
    return describe_value(path, ordered[0]), describe_value(path, ordered[-1])
