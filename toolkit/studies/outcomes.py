"""The results of a study, folded from the directories of its runs each time that they are read.

A run belongs to a trial when it trains the same content, whatever study or name it was started for.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from toolkit.errors import RunError, ToolkitError
from toolkit.evaluation.predictions import read_predictions
from toolkit.evaluation.questions import EvaluationQuestion
from toolkit.evaluation.seen_rows import find_seen_rows
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.studies.known_runs import KnownRun, list_known_runs, read_old_question, read_study_name
from toolkit.studies.objectives import (
    DEFAULT_OBJECTIVE,
    FREE_TEXT_OBJECTIVE,
    OBJECTIVES,
    Objective,
    read_run_value,
    score_rows,
)
from toolkit.studies.question import (
    AskedTrial,
    StudyQuestion,
    clean_study_name,
    list_questions,
)

MIN_MATCHED_SHARE = 0.05
"""Exact match that no trial reaches says nothing: free text hardly ever matches exactly."""
STATE_ORDER = (
    "finished", "stopping", "running", "starting", "queued", "paused", "interrupted", "failed", "stopped", "cancelled",
)  # fmt: skip
"""Which of several runs with the same content counts, the first one first."""
RowScores = Mapping[tuple[int, str], float]
"""Score by (row number, expected answer); a study of datasets pairs only rows that are the same."""


@dataclass(frozen=True)
class TrialOutcome:
    """A trial with its run, if there is one. scores: by row, empty until the run has answered its test rows.

    value: the objective of the whole run. A failed trial has neither, and its status says why.
    """

    asked: AskedTrial
    run: RunDir | None = None
    status: RunStatus | None = None
    scores: RowScores = field(default_factory=dict)
    value: float | None = None

    @property
    def state(self) -> str:
        """The state of its run, or "planned"."""
        return self.status.state if self.status is not None else "planned"


@dataclass(frozen=True)
class Study:
    """A study at one moment. objective: the measure that its trials are compared by.

    seen_rows: test rows that are left out, because a trial was trained on them.
    """

    question: StudyQuestion
    outcomes: tuple[TrialOutcome, ...]
    objective: str = DEFAULT_OBJECTIVE
    seen_rows: int = 0

    @property
    def measured(self) -> Objective:
        """What the objective means."""
        return OBJECTIVES[self.objective]

    @property
    def runs(self) -> list[RunDir]:
        return [outcome.run for outcome in self.outcomes if outcome.run is not None]


def list_study_names(save_dir: Path) -> tuple[list[str], list[ToolkitError]]:
    """Return the names of all studies, the one with the newest run first, and errors of files that can't be read."""
    questions, errors = list_questions(save_dir)
    names: dict[str, None] = {}
    problems: list[ToolkitError] = [*errors]
    for run in list_runs(save_dir):
        try:
            name = read_study_name(run)
        except RunError as error:
            problems.append(error)
            continue
        if name:
            names[name] = None
    return list({**names, **dict.fromkeys(question.name for question in questions)}), problems


def read_study(save_dir: Path, name: str) -> Study:
    """Return a study with its results so far. Raises RunError when there is none of that name."""
    name = clean_study_name(name)
    question = read_old_question(save_dir, name)
    if question is None:
        known = ", ".join(f"'{other}'" for other in list_study_names(save_dir)[0][:5])
        hint = f"The studies are: {known}." if known else "Start one with: python -m toolkit study config.yml"
        raise RunError(f"There is no study '{name[:80]}' in {save_dir}.", hint)
    return fold_study(question, list_known_runs(save_dir, name))


def find_free_name(save_dir: Path, name: str) -> str:
    """Return the name, or with the first number that makes it free: "ranks", "ranks 2"."""
    taken = set(list_study_names(save_dir)[0])
    return name if name not in taken else next(new for at in itertools.count(2) if (new := f"{name} {at}") not in taken)


def fold_study(question: StudyQuestion, known: Sequence[KnownRun]) -> Study:
    """Return the study that these runs answer so far."""
    chosen = [(trial, found) for trial, found in zip(question.trials, _choose_runs(question, known), strict=True)]
    objective = question.objective or _choose_objective([found[0] for _, found in chosen if found])
    seen = _find_seen_rows([found[0] for _, found in chosen if found])
    outcomes = tuple(
        TrialOutcome(trial) if found is None else _read_outcome(trial, *found, objective, question.rules, seen)
        for trial, found in chosen
    )
    return Study(question, outcomes, objective, len(seen))


def find_trial_runs(save_dir: Path, question: StudyQuestion) -> dict[str, RunDir]:
    """Return the run of each trial that has one, by content."""
    chosen = _choose_runs(question, list_known_runs(save_dir, question.name))
    return {trial.content: found[0] for trial, found in zip(question.trials, chosen, strict=True) if found is not None}


def _choose_runs(question: StudyQuestion, known: Sequence[KnownRun]) -> list[tuple[RunDir, RunStatus] | None]:
    """Return the run of each trial with its status: of several with the same content, the one that is furthest."""
    by_content: dict[str, list[KnownRun]] = {}
    for one in known:
        by_content.setdefault(one.content, []).append(one)
    found = []
    for trial in question.trials:
        fitting = [
            (one.run, read_run_status(one.run))
            for one in by_content.get(trial.content, ())
            if one.study != question.name or one.settings == trial.settings
        ]
        found.append(min(fitting, key=lambda pair: STATE_ORDER.index(pair[1].state), default=None))
    return found


def _read_outcome(
    trial: AskedTrial, run: RunDir, status: RunStatus, objective: str, rules: str, seen: Collection[tuple[int, str]]
) -> TrialOutcome:
    if status.state != "finished":
        return TrialOutcome(trial, run, status)
    found = read_row_scores(run, objective, rules) if OBJECTIVES[objective].by_row else {}
    scores = {row: score for row, score in found.items() if row not in seen}
    value = sum(scores.values()) / len(scores) if scores else read_run_value(status, objective)
    return TrialOutcome(trial, run, status, scores, value)


def _choose_objective(runs: Iterable[RunDir]) -> str:
    best = [sum(scores.values()) / len(scores) for run in runs if (scores := read_row_scores(run, DEFAULT_OBJECTIVE))]
    return FREE_TEXT_OBJECTIVE if best and max(best) < MIN_MATCHED_SHARE else DEFAULT_OBJECTIVE


def _find_seen_rows(runs: Sequence[RunDir]) -> frozenset[tuple[int, str]]:
    """Return the test rows that the runs answered and that one of them was trained on."""
    answered = [run for run in runs if run.predictions_path.is_file()]
    return _compare_with_training(tuple((run, run.predictions_path.stat().st_mtime_ns) for run in answered))


@lru_cache(maxsize=50)
def _compare_with_training(answered: tuple[tuple[RunDir, int], ...]) -> frozenset[tuple[int, str]]:
    rows = list({(one.row, one.expected, one.prompt): one for run, _ in answered for one in read_predictions(run)})
    questions = [EvaluationQuestion(at, row, prompt, expected) for at, (row, expected, prompt) in enumerate(rows)]
    runs = [run for run, _ in answered]
    seen = find_seen_rows(questions, [run.id for run in runs], runs[0]) if questions else {}
    return frozenset(rows[at][:2] for positions in seen.values() for at in positions)


def read_row_scores(run: RunDir, objective: str, rules: str = "") -> RowScores:
    """Return the objective of each test row that the run answered at its end; empty while it has not."""
    path = run.predictions_path
    return _score_predictions(run, path.stat().st_mtime_ns, objective, rules) if path.is_file() else {}


@lru_cache(maxsize=2000)
def _score_predictions(run: RunDir, stamp: int, objective: str, rules: str) -> RowScores:
    del stamp  # only part of the cache key
    return score_rows(read_predictions(run), objective, rules)


def find_run_reason(status: RunStatus) -> str:
    """Return why a trial has no result, in one sentence."""
    text: Any = status.message or status.broke_off or f"The run was {status.state}."
    return str(text).split("\n")[0]


def has_value(outcome: TrialOutcome, path: str, value: Any) -> bool:
    """Return whether the trial has this value of a varied setting."""
    return repr(outcome.asked.settings.get(path)) == repr(value)


def index_finished_trials(study: Study, path: str, value: Any) -> dict[tuple[int, str], TrialOutcome]:
    """Return the trials with this value and a result, by (seed, other settings)."""
    found = {}
    for outcome in study.outcomes:
        if outcome.value is not None and has_value(outcome, path, value):
            others = {name: setting for name, setting in outcome.asked.settings.items() if name != path}
            found[outcome.asked.seed, repr(sorted(others.items()))] = outcome
    return found
