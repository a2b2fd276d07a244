"""The winner of a study on all rows: the settings of the study, with neither a test set nor what needs one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from toolkit.config import Config
from toolkit.data.examples.split import plan_split
from toolkit.data.storage.open_table import open_table
from toolkit.errors import RunError
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, create_run, list_runs, read_run_config, read_run_meta
from toolkit.runs.status import read_run_status
from toolkit.studies.methods.whole_data import plan_whole_data_run, start_whole_data_run
from toolkit.studies.outcomes import Study, read_study

RANK = "lora.r"


def train(folder: Path, rank: int, **data: Any) -> RunDir:
    """Create the finished run of a trial, whose patience and epochs are not the defaults."""
    args = {"num_train_epochs": 3, "early_stopping_patience": 2, "load_best_at_end": True, "eval_steps": 5}
    settings = {
        "save_dir": str(folder), "lora": {"r": rank}, "training": {"training_args": args}, "data": data,
        "ablation": {"objective": "eval_loss"},
    }  # fmt: skip
    config = Config.model_validate(settings)
    run = create_run(config, open_table(config.data, folder), study="ranks", settings={RANK: rank})
    run.claim_path.touch()
    with EventWriter(run.events_path) as writer:
        writer.append("started")
        writer.append("log", step=3, eval_loss=1 / rank)
        writer.append("finished", step=3)
    return run


def read_ranks(folder: Path, **data: Any) -> Study:
    for rank in (4, 8):
        train(folder, rank, **data)
    return read_study(folder, "ranks")


def test_the_winner_is_trained_on_every_row_but_one_and_only_once(tmp_path: Path) -> None:
    study = read_ranks(tmp_path)
    run = start_whole_data_run(tmp_path, study, {RANK: 8})
    assert read_run_status(run).state == "queued" and read_run_meta(run)["study"] == ""
    assert read_run_meta(run)["name"] == "ranks: all rows"
    config = read_run_config(run)
    args = config.training.training_args
    assert (config.lora.r, args.num_train_epochs) == (8, 3), "the other settings are those of the study"
    assert (args.early_stopping_patience, args.load_best_at_end) == (None, False)
    table = open_table(config.data, tmp_path)
    split = plan_split(table, config.data)
    assert len(split.test) == 1 and len(split.train) == table.rows - 1 - len(split.dropped)
    assert start_whole_data_run(tmp_path, study, {RANK: 8}) == run, "a second press finds the run"
    assert len(list_runs(tmp_path)) == 3


def test_values_that_no_trial_combines_and_a_study_of_the_training_rows(tmp_path: Path) -> None:
    study = read_ranks(tmp_path)
    config = plan_whole_data_run(study, {RANK: 16, "data.train_size": 0.2}).config
    assert (config.lora.r, config.data.train_size, config.data.test_size) == (16, None, 1)


def test_without_a_result_or_with_a_test_file_there_is_nothing_to_train(tmp_path: Path) -> None:
    study = read_ranks(tmp_path)
    bare = Study(study.question, tuple(type(one)(one.asked) for one in study.outcomes))
    with pytest.raises(RunError, match="No trial of this study has a result yet"):
        plan_whole_data_run(bare, {RANK: 8})
    test_file = tmp_path / "test.csv"
    test_file.write_text("message,answer\na,b\n")
    other = read_ranks(tmp_path / "other", test_path=str(test_file))
    with pytest.raises(RunError, match="trained on all rows of the dataset"):
        plan_whole_data_run(other, {RANK: 8})
