"""The further trials of studies whose method chooses by results: called whenever a run of the save_dir has ended.

Nothing is remembered between two calls: which trial comes next follows from the study's file and from its runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.storage.open_table import open_table
from toolkit.errors import ConfigError, ToolkitError
from toolkit.forecast.decisions import decide_open_settings
from toolkit.runs.run_dir import RunDir, read_run_config, request_run_stop
from toolkit.runs.status import UNFINISHED
from toolkit.settings.ablation import StudyTrial, expand_combination
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.studies.known_runs import list_known_runs
from toolkit.studies.methods.tpe import TriedCombination, propose_combination
from toolkit.studies.outcomes import Study, find_trial_runs, fold_study
from toolkit.studies.plan import repeat_trial
from toolkit.studies.question import (
    AskedTrial,
    StudyQuestion,
    hash_trial_content,
    list_missing_seeds,
    list_questions,
    read_question,
    study_folder,
    write_question,
)
from toolkit.studies.start import PlannedRun, create_trial_run
from toolkit.studies.verdict import DECIDED_REASON, find_losing_trials, stops_as_decided
from toolkit.system.locks import wait_for_lock
from toolkit.system.machine import read_known_machine

logger = logging.getLogger(__name__)
HELD_STATES = frozenset({*UNFINISHED, "interrupted", "paused", "stopped", "cancelled"})
"""States of a trial that the next one waits for: it will end by itself, or a person has stopped the study."""
MAX_REFUSED = 50
"""Combinations in a row that train nothing new, after which the search ends."""
TrialPlanner = Callable[[StudyTrial, Path], tuple[PlannedRun, str]]


def advance_studies(save_dir: Path) -> list[RunDir]:
    """Cancel what the decided studies of this folder have queued; queue and return what others are due for."""
    started: list[RunDir] = []
    for question in list_questions(save_dir)[0]:
        try:
            if question.stop_when_decided or question.prune_losers:
                withdraw_needless_runs(save_dir, question)
            if question.method == "tpe":
                started += advance_study(save_dir, question.name)
        except (ToolkitError, OSError, ValueError) as error:  # files that were changed by hand: the others go on
            logger.warning("Study %s does not go on: %s", question.name, error)
    return started


def withdraw_needless_runs(save_dir: Path, question: StudyQuestion) -> list[RunDir]:
    """Cancel the queued runs of losing combinations and of a settled study, and return them; those that train go on."""
    own = {one.run for one in list_known_runs(save_dir, question.name) if one.study == question.name}
    study = fold_study(question, list_known_runs(save_dir, question.name))
    waiting = {one.run: one.asked.content for one in study.outcomes if one.state == "queued" and one.run in own}
    reasons = find_losing_trials(study)
    if waiting and stops_as_decided(study):
        reasons = dict.fromkeys(waiting.values(), DECIDED_REASON)
    withdrawn = [run for run, content in waiting.items() if run is not None and content in reasons]
    for run in withdrawn:
        request_run_stop(run, reason=reasons[waiting[run]])
    return withdrawn


def advance_study(
    save_dir: Path, name: str, plan_trial: TrialPlanner | None = None, *, restore: bool = False
) -> list[RunDir]:
    """Queue the trials that TPE chooses next, one for each seed; none while a trial is open or the budget is spent.

    plan_trial: returns how a trial's run would be created, and the hash of its dataset. restore: trials whose run was
    deleted are trained again. Raises ToolkitError.
    """
    with wait_for_lock(study_folder(save_dir, name) / "lock"):
        while True:
            question = read_question(save_dir, name)
            if question is None or question.method != "tpe":
                return []
            question = _adopt_runs(save_dir, question)
            study = fold_study(question, list_known_runs(save_dir, name))
            if any(outcome.state in HELD_STATES for outcome in study.outcomes) or stops_as_decided(study):
                return []
            again = [one.asked for one in study.outcomes if restore and one.run is None]
            planned = _plan_next(save_dir, study, again, plan_trial or plan_trial_run)
            # a combination that other runs have trained already is written down, and the next one is chosen
            if not planned or (created := _queue(save_dir, question, planned)):
                return created if planned else []


def _adopt_runs(save_dir: Path, question: StudyQuestion) -> StudyQuestion:
    """Return the question with the runs that were created before a kill kept them from being written down."""
    known = {trial.content for trial in question.trials}
    own = [one for one in list_known_runs(save_dir, question.name) if one.study == question.name]
    found = [
        AskedTrial(one.settings, read_run_config(one.run).training.training_args.seed, one.content)
        for one in reversed(own)
        if one.content not in known
    ]
    if not found:
        return question
    question = replace(question, trials=(*question.trials, *found))
    write_question(save_dir, question)
    return question


def _plan_next(
    save_dir: Path, study: Study, again: list[AskedTrial], plan_trial: TrialPlanner
) -> list[tuple[AskedTrial, PlannedRun]]:
    """Return the trials of the next combination, one for each seed; none when the search has ended.

    Trials to train `again` come first, then a combination that lacks a seed: a kill has parted it, or more seeds were
    asked for since.
    """
    question = study.question
    lacking = list_missing_seeds(question)[:1]
    due = [(one.settings, one.seed) for one in again] or [(one, seed) for one, seeds in lacking for seed in seeds]
    if due:
        trials = [repeat_trial(expand_combination(question.draft, settings), seed) for settings, seed in due]
        return [_plan_one(save_dir, trial, len(question.repeats) > 1, plan_trial) for trial in trials]
    tried = list_tried(study)
    taken = {repr(_in_order(question, one.settings)) for one in tried}
    if len(taken) >= (question.budget or 0):
        return []
    folder, lower = study_folder(save_dir, question.name), study.measured.lower
    contents = {trial.content for trial in question.trials}
    for _ in range(MAX_REFUSED):
        settings = propose_combination(question.axes, tried, taken, lower=lower, name=question.name, folder=folder)
        if settings is None:
            break
        taken.add(repr(settings))
        try:
            trial = expand_combination(question.draft, settings)
        except ConfigError as error:
            logger.info("study %s does not train %s: %s", question.name, settings, error)
            continue
        repeats = [repeat_trial(trial, seed) for seed in question.repeats] or [trial]
        planned = [_plan_one(save_dir, one, len(repeats) > 1, plan_trial) for one in repeats]
        # the same content as another trial: a setting has no effect in this combination
        if not any(asked.content in contents for asked, _ in planned):
            return planned
    return []


def _plan_one(
    save_dir: Path, trial: StudyTrial, name_seed: bool, plan_trial: TrialPlanner
) -> tuple[AskedTrial, PlannedRun]:
    plan, dataset = plan_trial(trial, save_dir)
    seed = trial.config.training.training_args.seed
    values = [f"{name_setting(path)} {describe_value(path, value)}" for path, value in trial.settings.items()]
    name = ", ".join([*values, f"seed {seed}"] if name_seed else values)
    return AskedTrial(trial.settings, seed, hash_trial_content(trial.config, dataset)), replace(plan, name=name)


def _queue(save_dir: Path, question: StudyQuestion, planned: list[tuple[AskedTrial, PlannedRun]]) -> list[RunDir]:
    """Write the trials down and create their runs; those that have a run already keep it."""
    written = {trial.content for trial in question.trials}
    new = (asked for asked, _ in planned if asked.content not in written)
    question = replace(question, trials=(*question.trials, *new))
    known = find_trial_runs(save_dir, question)
    # the runs first: written down without a run, a trial would look like one whose run was deleted
    created = [create_trial_run(question.name, asked, plan) for asked, plan in planned if asked.content not in known]
    write_question(save_dir, question)
    return created


def list_tried(study: Study) -> list[TriedCombination]:
    """Return the combinations of a study with their mean results, in the order in which they were asked."""
    values: dict[str, list[float]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for outcome in study.outcomes:
        key = repr(_in_order(study.question, outcome.asked.settings))
        settings[key] = outcome.asked.settings
        found = values.setdefault(key, [])
        if outcome.value is not None:
            found.append(outcome.value)
    return [TriedCombination(settings[key], float(np.mean(v)) if v else None) for key, v in values.items()]


def _in_order(question: StudyQuestion, settings: dict[str, Any]) -> dict[str, Any]:
    return {path: settings.get(path) for path in question.axes}


def plan_trial_run(trial: StudyTrial, save_dir: Path) -> tuple[PlannedRun, str]:
    """Return how the run of a trial would be created, and the hash of its dataset. Raises ToolkitError."""
    config = trial.config.model_copy(update={"save_dir": str(save_dir)})
    table = open_table(config.data, save_dir)
    decided = decide_open_settings(config, table, read_known_machine(save_dir), save_dir)
    return PlannedRun(decided.config, table, "", decided.reasons, decided.memory_bytes), table.sha256
