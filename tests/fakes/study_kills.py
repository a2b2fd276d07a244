"""A study of the demo whose worker and whose starting program are killed in the middle, and what must come of it."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from toolkit.config import Config
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import RunDir, list_runs, read_run_meta
from toolkit.runs.status import read_run_status
from toolkit.settings.draft import draft_from_config, replace_setting
from toolkit.studies.outcomes import read_study
from toolkit.studies.verdict import judge_study
from toolkit.studies.words import describe_verdict
from toolkit.system.locks import read_lock_holder

RATE, LOGGING = "training.training_args.learning_rate", "training.training_args.logging_steps"
STUDY_AXES = {RATE: [1e-6, 5e-3], LOGGING: [1, 2, 4]}
"""2 x 3: a rate that teaches the demo model nothing against one that does, and an interval without effect."""
TRIALS = 12  # with two seeds
WAIT_SECONDS = 600.0


def make_study_draft(save_dir: Path) -> dict[str, object]:
    """Return the settings of the study, without its axes: the fewest steps in which the demo model learns."""
    draft = draft_from_config(Config(save_dir=str(save_dir)))
    changes = {
        "ablation.use_ablate": True,
        "ablation.study_name": "proof",
        "ablation.seeds": 2,
        "data.train_size": 96,
        "data.test_size": 40,
        "training.training_args.num_train_epochs": 1,
        "training.training_args.eval_steps": 100,
        "training.training_args.save_steps": 6,
        "training.pinned_rows": 0,
    }
    for path, value in changes.items():
        draft = replace_setting(draft, path, value)
    return draft


def wait_for_finished(save_dir: Path, count: int) -> None:
    """Wait until so many runs have finished."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (states := [read_run_status(run).state for run in list_runs(save_dir)]).count("finished") < count:
        assert time.monotonic() < deadline, states
        assert "failed" not in states, [read_run_status(run).message for run in list_runs(save_dir)]
        time.sleep(0.2)


def kill_a_worker(save_dir: Path) -> RunDir:
    """Kill the worker of a run that is training; return the run. A worker that just ends is left alone."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for run in list_runs(save_dir):
            if read_run_status(run).phase == "training" and _kill_holder(run):
                return run
        time.sleep(0.02)
    raise AssertionError("no run was training")


def _kill_holder(run: RunDir) -> bool:
    holder = read_lock_holder(run.lock_path)
    if holder is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGSTOP)  # it can't end between the look and the kill
        in_the_middle = read_run_status(run).phase == "training"
        os.kill(holder.pid, signal.SIGKILL if in_the_middle else signal.SIGCONT)
        return in_the_middle
    return False


def assert_each_trial_was_trained_once(save_dir: Path, killed: RunDir) -> None:
    """Check that there is one finished run for each trial, and that only the killed one has a second attempt."""
    runs = list_runs(save_dir)
    kinds = {run: [event["kind"] for event in read_events(run.events_path)[0]] for run in runs}
    assert [read_run_status(run).state for run in runs] == ["finished"] * TRIALS
    assert len({read_run_meta(run)["content"] for run in runs}) == TRIALS
    assert {run.id: found.count("finished") for run, found in kinds.items()} == {run.id: 1 for run in runs}
    assert {run.id: found.count("started") for run, found in kinds.items()} == {
        run.id: 2 if run == killed else 1 for run in runs
    }


def assert_verdict_is_right(save_dir: Path) -> str:
    """Check that the effect is found and the null is not; return the verdict."""
    study = read_study(save_dir, "proof")
    verdict = judge_study(study)
    assert {outcome.state for outcome in study.outcomes} == {"finished"} and len(study.outcomes) == TRIALS
    found = {finding.path: finding for finding in verdict.findings}
    assert {path: finding.verdict for path, finding in found.items()} == {RATE: "matters", LOGGING: "noise"}
    assert (found[RATE].recommended, found[LOGGING].recommended) == (5e-3, 1)
    return describe_verdict(study, verdict)
