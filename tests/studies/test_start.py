"""Starting a study: each trial is trained once, whatever happens in between; another question needs another name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolkit.config import Config
from toolkit.errors import ConfigError, RunError
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, create_run, list_runs, read_run_meta, request_run_stop
from toolkit.runs.status import read_run_status
from toolkit.settings.draft import default_draft, replace_setting
from toolkit.studies.outcomes import find_free_name, list_study_names, read_study
from toolkit.studies.plan import plan_study
from toolkit.studies.question import ask_study, hash_trial_content, study_folder
from toolkit.studies.start import PlannedRun, StudyProgress, find_study_conflict, start_study


@dataclass(frozen=True)
class Source:
    path: Path
    sha256: str = "ab" * 32
    label: str = "orders"
    rows: int = 7


class Desk:
    """Starts studies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "table.parquet").write_bytes(b"PAR1")

    def start(
        self, values: tuple[int, ...] = (4, 8), *, fail_after: int | None = None, retry: bool = False,
        grid: dict[str, list[Any]] | None = None, table: str = "ab" * 32, **more: Any,
    ) -> tuple[list[RunDir], StudyProgress]:  # fmt: skip
        draft = replace_setting(default_draft(), "ablation.use_ablate", True)
        for path, value in {"save_dir": str(self.folder), "ablation.seeds": 2, **more}.items():
            draft = replace_setting(draft, path.replace("__", "."), value)
        trials = plan_study(draft, grid or {"lora.r": list(values)}).trials
        source = Source(self.folder / "table.parquet", table)
        configs = {hash_trial_content(trial.config, table): trial.config for trial in trials}
        made: list[str] = []

        def plan_run(content: str) -> PlannedRun:
            if fail_after == len(made):
                raise KeyboardInterrupt
            made.append(content)
            return PlannedRun(configs[content], source, f"run {len(made)}")

        return start_study(self.folder, ask_study("ranks", trials, [table] * len(trials)), plan_run, retry_failed=retry)


def write_events(run: RunDir, *events: tuple[str, dict[str, Any]]) -> None:
    run.claim_path.touch()
    with EventWriter(run.events_path) as writer:
        for kind, fields in (("started", {}), *events):
            writer.append(kind, **fields)


def finish(run: RunDir) -> None:
    write_events(run, ("finished", {"step": 3}))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_each_trial_is_queued_once_and_a_second_start_queues_nothing(desk: Desk) -> None:
    created, progress = desk.start()
    assert (len(created), progress.to_train) == (4, 4)
    assert [read_run_meta(run)["settings"] for run in created] == [{"lora.r": 4}, {"lora.r": 8}] * 2
    finish(created[0])
    again, progress = desk.start()
    assert again == [] and len(progress.kept) == 4
    assert len(list_runs(desk.folder)) == 4


def test_a_start_that_was_killed_is_completed_by_the_next_one(desk: Desk) -> None:
    with pytest.raises(KeyboardInterrupt):
        desk.start(fail_after=3)
    assert len(list_runs(desk.folder)) == 3
    assert [outcome.state for outcome in read_study(desk.folder, "ranks").outcomes] == ["queued"] * 3 + ["planned"]
    assert len(desk.start()[0]) == 1
    assert len(list_runs(desk.folder)) == 4


def test_more_seeds_add_runs_and_fewer_forget_none(desk: Desk) -> None:
    desk.start()
    assert len(desk.start(ablation__seeds=3)[0]) == 2
    assert desk.start(ablation__seeds=1)[0] == []
    assert read_study(desk.folder, "ranks").question.seeds == (42, 43, 44)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": (4, 16)}, "with other values: LoRA rank (r) 4, 8. Now: LoRA rank (r) 4, 16."),
        ({"values": (4,)}, "other values"),
        ({"grid": {"lora.r": [4, 8], "lora.bias": ["none", "all"]}}, "Bias training"),
        ({"training__training_args__num_train_epochs": 5}, "with other settings: Epochs 2 instead of 5."),
        ({"table": "cd" * 32}, "another dataset"),
    ],
)
def test_another_question_under_the_same_name_is_refused_with_a_remedy(
    desk: Desk, change: dict[str, Any], words: str
) -> None:
    desk.start()
    with pytest.raises(ConfigError) as caught:
        desk.start(**change)
    (problem,) = caught.value.problems
    assert problem.path == "ablation.study_name"
    assert "'ranks' already exists" in problem.message and words in problem.message
    assert "'ranks 2'" in problem.hint
    assert len(list_runs(desk.folder)) == 4, "nothing was queued"
    assert find_free_name(desk.folder, "ranks") == "ranks 2"


@pytest.mark.parametrize(
    "change",
    [
        {"inference__temperature": 0.5, "inference__do_sample": True},
        {"ablation__objective": "chrf"},
        {"model__bitsandbytes__bnb_4bit_quant_type": "fp4"},
        {"training__pinned_rows": 2},
        {"values": (8, 4)},
    ],
)
def test_settings_that_do_not_retrain_continue_the_study(desk: Desk, change: dict[str, Any]) -> None:
    desk.start()
    assert desk.start(**change)[0] == []


def test_a_failed_trial_is_a_result_until_it_is_asked_for_again(desk: Desk) -> None:
    created, _ = desk.start()
    write_events(created[0], ("failed", {"reason": "out_of_memory", "message": "The GPU ran out of memory."}))
    queued, progress = desk.start()
    assert queued == [] and progress.failed == (created[0],)
    outcome = read_study(desk.folder, "ranks").outcomes[0]
    assert (outcome.state, outcome.value) == ("failed", None)
    assert outcome.status is not None and outcome.status.message == "The GPU ran out of memory."
    assert desk.start(retry=True)[0] == [created[0]], "resumed, not trained anew"
    assert read_run_status(created[0]).state == "queued"


def test_cancelled_and_stopped_trials_continue(desk: Desk) -> None:
    created, _ = desk.start()
    request_run_stop(created[1])
    write_events(created[2], ("stopped", {"step": 1}))
    queued, progress = desk.start()
    assert set(queued) == {created[1], created[2]} == set(progress.resumed)
    assert len(list_runs(desk.folder)) == 4
    assert {read_run_status(run).state for run in queued} == {"queued"}


def test_a_run_with_the_same_content_counts_whatever_it_was_started_for(desk: Desk) -> None:
    config = Config(save_dir=str(desk.folder), lora={"r": 8})  # type: ignore[arg-type]
    lone = create_run(config, Source(desk.folder / "table.parquet"), name="by hand")
    finish(lone)
    created, progress = desk.start()
    assert len(created) == 3 and progress.kept == (lone,)
    assert lone in read_study(desk.folder, "ranks").runs


def test_decided_settings_do_not_make_another_trial(desk: Desk) -> None:
    args = {"gradient_checkpointing": False}
    config = Config.model_validate(
        {"save_dir": str(desk.folder), "lora": {"r": 8}, "training": {"training_args": args}}
    )
    chosen = {"training.training_args.gradient_checkpointing": "No gradient checkpointing: it fits"}
    run = create_run(config, Source(desk.folder / "table.parquet"), chosen=chosen)
    assert desk.start()[1].kept == (run,)
    by_hand = create_run(config, Source(desk.folder / "table.parquet"))
    assert by_hand not in desk.start()[1].kept, "chosen by the user, it is another setting"


def test_a_study_from_before_the_file_is_read_from_its_runs(desk: Desk) -> None:
    created, _ = desk.start()
    (study_folder(desk.folder, "ranks") / "study.json").unlink()
    for run in created:
        meta = json.loads(run.meta_path.read_text())
        del meta["content"]
        run.meta_path.write_text(json.dumps(meta))
    study = read_study(desk.folder, "ranks")
    assert study.question.axes == {"lora.r": [4, 8]} and len(study.outcomes) == 4
    assert desk.start()[0] == []
    with pytest.raises(ConfigError, match="other values"):
        desk.start((4, 16))


def test_a_deleted_run_is_trained_again(desk: Desk) -> None:
    created, _ = desk.start()
    for path in sorted(created[0].path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    created[0].path.rmdir()
    assert len(desk.start()[0]) == 1


def test_an_unknown_or_damaged_study_is_named_with_what_to_do(desk: Desk) -> None:
    with pytest.raises(RunError, match=r"There is no study 'ranks'.*toolkit study config.yml"):
        read_study(desk.folder, "ranks")
    created, _ = desk.start()
    with pytest.raises(RunError, match="The studies are: 'ranks'"):
        read_study(desk.folder, "other")
    path = study_folder(desk.folder, "ranks") / "study.json"
    for text in ("{", "[]", json.dumps({"schema": 2}), json.dumps({"schema": 1, "name": 3})):
        path.write_text(text)
        names, errors = list_study_names(desk.folder)
        assert names == ["ranks"] and len(errors) == 1
        with pytest.raises(RunError, match=r"study\.json"):
            read_study(desk.folder, "ranks")
    assert created


def test_a_question_is_compared_before_anything_is_written(desk: Desk) -> None:
    draft = replace_setting(default_draft(), "ablation.use_ablate", True)
    trials = plan_study(draft, {"lora.r": [4, 8]}).trials
    question = ask_study(" ranks ", trials, ["x"] * len(trials))
    assert find_study_conflict(desk.folder, question) is None
    assert question.name == "ranks"
    assert not (desk.folder / "studies").exists()


def test_a_study_whose_name_came_with_white_space_is_opened_under_the_name_that_is_listed(tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    run = create_run(Config(save_dir=str(tmp_path)), Source(tmp_path / "table.parquet"), study="ranks")
    run.meta_path.write_text(json.dumps({**read_run_meta(run), "study": " \x0branks\t"}))
    assert list_study_names(tmp_path)[0] == ["ranks"]
    read_study(tmp_path, "ranks")


@pytest.mark.parametrize("change", [{"objective": "x"}, {"method": "x"}, {"objective": 7}])
def test_a_study_of_another_program_with_an_unknown_objective_is_explained(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    Desk(tmp_path).start()
    path = study_folder(tmp_path, "ranks") / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=f"'{next(iter(change))}' is wrong") as refused:
        read_study(tmp_path, "ranks")
    assert refused.value.hint
