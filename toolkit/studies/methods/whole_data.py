"""The recommended values of a study trained on all rows: one run like those of the study, without their test set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.data.storage.open_table import open_table
from toolkit.errors import ConfigError, RunError
from toolkit.runs.preflight import preflight_problems
from toolkit.runs.run_dir import RunDir, create_run, read_run_meta
from toolkit.settings.ablation import StudyTrial
from toolkit.settings.draft import draft_from_config, fill_in_values
from toolkit.settings.validation import parse_draft
from toolkit.studies.known_runs import list_known_runs, read_own_config
from toolkit.studies.methods.advance import plan_trial_run
from toolkit.studies.outcomes import Study, has_value
from toolkit.studies.question import hash_trial_content
from toolkit.system.machine import read_known_machine

_ARGS = "training.training_args."
WHOLE_DATA_SETTINGS = {
    "ablation.use_ablate": False,
    "data.train_size": None,
    "data.test_size": 1,
    "training.pinned_rows": 0,
    _ARGS + "early_stopping_patience": None,
    _ARGS + "load_best_at_end": False,
}
"""All rows but one, because a run needs a test row; what a test loss decides is off, as one row decides nothing."""


def plan_whole_data_run(study: Study, values: Mapping[str, Any]) -> StudyTrial:
    """Return the run with these values on all rows, with the other settings of the study.

    Raises RunError: no trial has finished, or the test set is a file, so that the runs trained on all rows already.
    """
    trained = [one for one in study.outcomes if one.run is not None and one.value is not None]
    fitting = [one for one in trained if all(has_value(one, path, values[path]) for path in values)]
    run = next((one.run for one in (*fitting, *trained)), None)
    if run is None:
        raise RunError("No trial of this study has a result yet.", "Wait for the first one.")
    config = read_own_config(run, read_run_meta(run))
    if config.data.test_path is not None:
        message = "The test set of this study is a file of its own, so its runs are trained on all rows of the dataset."
        raise RunError(message, "Use the run with the best values.")
    own = {path: value for path, value in values.items() if path not in ("data.train_size", "data.test_size")}
    return StudyTrial(parse_draft(fill_in_values(draft_from_config(config), {**own, **WHOLE_DATA_SETTINGS})), {})


def start_whole_data_run(save_dir: Path, study: Study, values: Mapping[str, Any]) -> RunDir:
    """Queue the run with these values on all rows, and return it; the one that exists already if there is one.

    Raises ToolkitError.
    """
    trial = plan_whole_data_run(study, values)
    table = open_table(trial.config.data, save_dir)
    content = hash_trial_content(trial.config, table.sha256)
    known = [one.run for one in list_known_runs(save_dir, "") if one.content == content]
    if known:
        return known[0]
    problems = preflight_problems(trial.config, table, read_known_machine(save_dir))
    if errors := [problem for problem in problems if problem.severity == "error"]:
        raise ConfigError(errors)
    plan, _ = plan_trial_run(trial, save_dir)
    return create_run(
        plan.config,
        plan.table,
        name=f"{study.question.name}: all rows"[:200],
        chosen=plan.chosen,
        memory_bytes=plan.memory_bytes,
    )
