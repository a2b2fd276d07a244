"""A study by TPE goes on by itself: after each end, after a kill at any moment, and only as far as its budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from toolkit.errors import ConfigError
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import (
    RunDir,
    create_run,
    delete_run,
    list_runs,
    read_run_config,
    read_run_meta,
    request_run_stop,
)
from toolkit.runs.status import read_run_status
from toolkit.settings.ablation import StudyTrial
from toolkit.settings.draft import default_draft, replace_setting
from toolkit.studies.methods import advance
from toolkit.studies.methods.advance import advance_studies, advance_study
from toolkit.studies.outcomes import read_study
from toolkit.studies.plan import plan_study
from toolkit.studies.question import ask_study, hash_trial_content, read_question, study_folder
from toolkit.studies.start import PlannedRun, StudyProgress, create_trial_run, start_study
from toolkit.studies.verdict import DECIDED_REASON, judge_study
from toolkit.studies.words import describe_verdict, tabulate_study

GRID: dict[str, list[Any]] = {"lora.r": [2, 4, 8, 16], "training.training_args.learning_rate": ["1e-3", 3e-3, 1e-2]}
TABLE = "ab" * 32


@dataclass(frozen=True)
class Source:
    path: Path
    sha256: str = TABLE
    label: str = "orders"
    rows: int = 7


class Search:
    """A study in a folder, whose runs end as a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "table.parquet").write_bytes(b"PAR1")

    def plan(self, trial: StudyTrial, save_dir: Path) -> tuple[PlannedRun, str]:
        config = trial.config.model_copy(update={"save_dir": str(save_dir)})
        return PlannedRun(config, Source(self.folder / "table.parquet")), TABLE

    def start(
        self, method: str = "tpe", trials: int = 7, grid: dict[str, list[Any]] | None = None, **more: Any
    ) -> tuple[list[RunDir], StudyProgress]:
        draft = replace_setting(default_draft(), "ablation.use_ablate", True)
        for path, value in {"save_dir": str(self.folder), "ablation.method": method, "ablation.trials": trials,
                            "ablation.objective": "eval_loss", **more}.items():  # fmt: skip
            draft = replace_setting(draft, path.replace("__", "."), value)
        planned = plan_study(draft, grid or GRID).trials
        configs = {hash_trial_content(one.config, TABLE): one for one in planned}
        question = ask_study("find", planned, [TABLE] * len(planned), draft, grid or GRID)
        return start_study(self.folder, question, lambda content: self.plan(configs[content], self.folder)[0])

    def advance(self) -> list[RunDir]:
        return advance_study(self.folder, "find", self.plan)

    def finish(self, run: RunDir, loss: float = 0.5, *, failed: bool = False) -> None:
        run.claim_path.touch()
        with EventWriter(run.events_path) as writer:
            writer.append("started")
            if failed:
                writer.append("failed", reason="out_of_memory", message="The GPU ran out of memory.")
            else:
                writer.append("log", step=3, eval_loss=loss)
                writer.append("finished", step=3)

    def finish_by_rank(self, run: RunDir) -> None:
        self.finish(run, 0.9 - 0.1 * [2, 4, 16, 8].index(read_run_meta(run)["settings"]["lora.r"]))

    def go_on(self, end: Callable[[RunDir], None], waiting: list[RunDir] | None = None) -> int:
        """End run after run until none is left; return how many there are."""
        waiting = self.start()[0] if waiting is None else waiting
        while waiting := waiting or self.advance():
            for run in waiting:
                end(run)
            waiting = []
        return len(list_runs(self.folder))


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path)


def settings_of(search: Search) -> list[str]:
    return [repr(read_run_meta(run)["settings"]) for run in list_runs(search.folder)]


def test_the_study_trains_its_budget_of_different_combinations(search: Search) -> None:
    assert search.go_on(search.finish_by_rank) == 7
    assert len(set(settings_of(search))) == 7
    study = read_study(search.folder, "find")
    assert study.question.axes == {"lora.r": [2, 4, 8, 16], "training.training_args.learning_rate": [1e-3, 3e-3, 1e-2]}
    assert (study.question.method, study.question.budget) == ("tpe", 7)
    assert [one.state for one in study.outcomes] == ["finished"] * 7
    assert search.start()[0] == [] and search.start()[1].to_train == 0
    names = [str(read_run_meta(run)["name"]) for run in list_runs(search.folder)[:3]]
    assert all("LoRA rank (r) " in name for name in names), "those that were chosen later have names too"


def test_nothing_is_chosen_while_a_trial_is_open_or_a_person_has_stopped_one(search: Search) -> None:
    created, progress = search.start()
    assert (len(created), progress.later, progress.to_train) == (4, 3, 7)
    assert search.advance() == []
    for run in created[:3]:
        search.finish(run)
    assert search.advance() == []
    request_run_stop(created[3])
    assert search.advance() == [], "a cancelled run holds the study"
    assert search.start()[0] == [created[3]]
    search.finish(created[3])
    assert len(search.advance()) == 1


def test_a_failed_trial_is_a_result_and_the_search_goes_on(search: Search) -> None:
    assert search.go_on(lambda run: search.finish(run, failed=True)) == 7


def test_each_combination_is_trained_with_every_seed(search: Search) -> None:
    created, _ = search.start(trials=5, ablation__seeds=2)
    assert len(created) == 8
    for run in created:
        search.finish_by_rank(run)
    later = search.advance()
    assert [read_run_config(run).training.training_args.seed for run in later] == [42, 43]
    assert len({repr(read_run_meta(run)["settings"]) for run in later}) == 1
    for run in later:
        search.finish_by_rank(run)
    assert search.advance() == []


@pytest.mark.parametrize("when", ["before the run", "between two runs", "before the file"])
def test_a_kill_at_any_moment_neither_doubles_nor_loses_a_trial(
    search: Search, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    for run in search.start(trials=6, ablation__seeds=2)[0]:
        search.finish_by_rank(run)
    created: list[RunDir] = []

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def create_once(*args: Any, **named: Any) -> RunDir:
        if created:
            raise KeyboardInterrupt
        created.append(create_trial_run(*args, **named))
        return created[0]

    with monkeypatch.context() as patch:
        if when == "before the file":
            patch.setattr(advance, "write_question", killed)
        else:
            patch.setattr(advance, "create_trial_run", killed if when == "before the run" else create_once)
        with pytest.raises(KeyboardInterrupt):
            search.advance()
    before = list_runs(search.folder)
    assert len(before) == 8 + {"before the run": 0, "between two runs": 1, "before the file": 2}[when]
    search.go_on(search.finish_by_rank, [run for run in before if not run.claim_path.exists()])
    study = read_study(search.folder, "find")
    found = [(repr(one.asked.settings), one.asked.seed) for one in study.outcomes]
    assert len(found) == len(set(found)) == len(list_runs(search.folder)) == 12


def test_a_trial_that_was_chosen_and_stopped_or_deleted_goes_on_at_the_next_start(search: Search) -> None:
    for run in search.start(trials=6)[0]:
        search.finish_by_rank(run)
    (chosen,) = search.advance()
    request_run_stop(chosen)
    assert search.advance() == []
    created, progress = search.start(trials=6)
    assert created == [chosen] == list(progress.resumed) and progress.later == 1
    content = read_run_meta(chosen)["content"]
    delete_run(chosen)
    assert search.start(trials=6)[1].to_train == 2
    assert search.start(trials=6)[0] == []
    (again,) = advance_study(search.folder, "find", search.plan, restore=True)
    assert read_run_meta(again)["content"] == content
    question = read_question(search.folder, "find")
    assert question is not None and len(question.trials) == 5
    assert search.go_on(search.finish_by_rank, [again]) == 6


@pytest.mark.parametrize("change", [{"name": "other"}, {"axes": {"lora.r": [999, 1000]}}])
def test_a_study_that_was_changed_by_hand_does_not_stop_the_others(
    search: Search, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    for run in search.start(trials=6)[0]:
        search.finish_by_rank(run)
    path = study_folder(search.folder, "find") / "study.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert advance_studies(search.folder) == []
    assert not any(record.exc_info for record in caplog.records)


def test_a_combination_that_another_run_has_trained_counts_without_training(search: Search) -> None:
    for run in search.start(trials=6)[0]:
        search.finish_by_rank(run)
    (chosen,) = search.advance()
    lone = create_run(read_run_config(chosen), Source(search.folder / "table.parquet"))
    search.finish(lone)
    delete_run(chosen)
    path = study_folder(search.folder, "find") / "study.json"
    asked = json.loads(path.read_text())
    path.write_text(json.dumps({**asked, "trials": asked["trials"][:4]}))
    (following,) = search.advance()
    assert read_run_meta(following)["content"] != read_run_meta(lone)["content"]
    assert lone in read_study(search.folder, "find").runs


def test_combinations_that_train_nothing_new_are_passed_over(search: Search) -> None:
    grid: dict[str, list[Any]] = {
        "model.quantize": [False, True],
        "model.bitsandbytes.bnb_4bit_quant_type": ["nf4", "fp4"],
        "model.bitsandbytes.bnb_4bit_use_double_quant": [False, True],
    }
    search.go_on(search.finish, search.start(trials=8, grid=grid)[0])
    contents = [read_run_meta(run)["content"] for run in list_runs(search.folder)]
    assert len(contents) == len(set(contents)) == 5, "four with quantization, one without"


def test_a_larger_budget_continues_the_study(search: Search) -> None:
    search.go_on(search.finish_by_rank)
    created, progress = search.start(trials=9)
    assert created == [] and (progress.later, progress.to_train) == (2, 2)
    (run,) = search.advance()
    search.finish_by_rank(run)
    assert len(search.advance()) == 1


def test_more_seeds_repeat_the_combinations_that_were_chosen_before(search: Search) -> None:
    search.go_on(search.finish_by_rank)
    created, progress = search.start(ablation__seeds=2)
    assert (len(created), progress.later) == (4, 3)
    assert search.go_on(search.finish_by_rank, created) == 14
    assert read_study(search.folder, "find").question.seeds == (42, 43)


def test_random_search_draws_its_budget_and_more_only_adds(search: Search) -> None:
    created, progress = search.start("random", 5)
    assert len(created) == 5 and progress.later == 0 and search.advance() == []
    first = set(settings_of(search))
    added, _ = search.start("random", 8)
    assert len(added) == 3 and first < set(settings_of(search))
    question = read_question(search.folder, "find")
    assert question is not None and (question.method, question.budget, question.draft) == ("random", 8, {})
    assert question.axes["lora.r"] == [2, 4, 8, 16]


def test_a_search_over_more_combinations_than_a_grid_may_have(search: Search) -> None:
    grid = {"lora.r": list(range(1, 101)), "lora.lora_alpha": list(range(1, 101)), "lora.bias": ["none", "all"]}
    with pytest.raises(ConfigError, match=r"20,000 trials; the maximum is 500"):
        search.start("grid", 5, grid)
    assert len(search.start("random", 5, grid)[0]) == 5


def test_a_wrong_value_is_reported_before_the_first_run_even_if_it_was_not_drawn(search: Search) -> None:
    for method in ("random", "tpe"):
        with pytest.raises(ConfigError, match="100000"):
            search.start(method, 1, {"lora.r": [4, 8, 16, 32, 100_000], "lora.lora_alpha": [1, 2, 3]})


def test_the_supervisor_lets_every_study_go_on_when_runs_have_ended(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advance, "plan_trial_run", search.plan)
    for run in search.start()[0]:
        search.finish_by_rank(run)
    calls: list[Path] = []

    def go_on(save_dir: Path) -> None:
        calls.append(save_dir)
        for run in advance_studies(save_dir):
            search.finish_by_rank(run)

    supervisor = Supervisor(search.folder, on_run_end=go_on)
    for _ in range(6):
        supervisor.tick()
    assert len(list_runs(search.folder)) == 7
    assert len(calls) == 4, "once for each end, and not at every look"


def finish_by_rank_clearly(search: Search, run: RunDir) -> None:
    search.finish(run, 0.9 if read_run_config(run).lora.r == 2 else 0.5)


def test_a_decided_study_cancels_what_it_has_queued_and_says_so(search: Search) -> None:
    grid: dict[str, list[Any]] = {"lora.r": [2, 8]}
    more = {"ablation__seeds": 6, "ablation__stop_when_decided": True}
    created, _ = search.start("grid", grid=grid, **more)
    ended = 0
    for run in created:
        if read_run_status(run).state != "queued":
            break
        finish_by_rank_clearly(search, run)
        ended += 1
        advance_studies(search.folder)
    assert 4 <= ended < 12, "two pairs at least, and not all"
    study = read_study(search.folder, "find")
    assert [one.state for one in study.outcomes] == ["finished"] * ended + ["cancelled"] * (12 - ended)
    text = describe_verdict(study, judge_study(study))
    assert "LoRA rank (r) matters" in text and f"decided: {12 - ended} queued runs were cancelled" in text
    assert {row["Reason"] for row in tabulate_study(study)} == {"", DECIDED_REASON}
    queued, progress = search.start("grid", grid=grid, **more)
    assert queued == [] and progress.is_decided and progress.to_train == 0
    queued, progress = search.start("grid", grid=grid, ablation__seeds=6)
    assert len(queued) == 12 - ended and not progress.is_decided, "with the switch off, the rest is trained"


def halve(search: Search, **more: Any) -> list[RunDir]:
    """Train a grid of five ranks with three seeds, of which higher ones are better; return the runs that trained."""
    grid: dict[str, list[Any]] = {"lora.r": [2, 4, 8, 16, 32]}
    created, _ = search.start("grid", grid=grid, ablation__seeds=3, ablation__prune_losers=True, **more)
    assert len(created) == 15
    trained = []
    for run in created:
        if read_run_status(run).state == "queued":
            rank = read_run_config(run).lora.r
            search.finish(run, 1 / rank, failed=rank == 2)
            trained.append(run)
            advance_studies(search.folder)
    return trained


def test_successive_halving_trains_the_better_half_with_the_next_seed(search: Search) -> None:
    trained = halve(search)
    ranks = [read_run_config(run).lora.r for run in trained]
    assert ranks == [2, 4, 8, 16, 32, 8, 16, 32, 16, 32], "5, then 3, then the 2 that are always kept"
    study = read_study(search.folder, "find")
    reasons = {(row["LoRA rank (r)"], row["Seed"]): row["Reason"] for row in tabulate_study(study)}
    assert reasons["4", 43] == "Successive halving stopped this combination: place 4 of 5 after 1 seed."
    assert reasons["2", 44] == "Successive halving stopped this combination: place 5 of 5 after 1 seed."
    assert reasons["8", 44] == "Successive halving stopped this combination: place 3 of 3 after 2 seeds."
    assert reasons["16", 44] == "" and [one.state for one in study.outcomes].count("cancelled") == 5
    text = describe_verdict(study, judge_study(study))
    assert "Successive halving cancelled 5 runs of losing combinations" in text
    grid: dict[str, list[Any]] = {"lora.r": [2, 4, 8, 16, 32]}
    queued, progress = search.start("grid", grid=grid, ablation__seeds=3, ablation__prune_losers=True)
    assert queued == [] and progress.to_train == 0, "another Start trains no loser"
    queued, _ = search.start("grid", grid=grid, ablation__seeds=4, ablation__prune_losers=True)
    assert [read_run_config(run).lora.r for run in queued] == [16, 32], "nor does another seed"
    assert len(search.start("grid", grid=grid, ablation__seeds=3)[0]) == 5, "with the switch off, they are trained"


def test_successive_halving_waits_for_every_combination_and_leaves_running_trials_alone(search: Search) -> None:
    grid: dict[str, list[Any]] = {"lora.r": [2, 4, 8]}
    created, _ = search.start("grid", grid=grid, ablation__seeds=2, ablation__prune_losers=True)
    search.finish(created[0], 0.9)
    search.finish(created[1], 0.2)
    request_run_stop(created[2])
    advance_studies(search.folder)
    assert [read_run_status(run).state for run in created[3:]] == ["queued"] * 3, "a person has stopped one"
    assert search.start("grid", grid=grid, ablation__seeds=2, ablation__prune_losers=True)[0] == [created[2]]
    search.finish(created[2], 0.1)
    advance_studies(search.folder)
    assert [read_run_status(run).state for run in created[3:]] == ["cancelled", "queued", "queued"]


def test_without_the_switch_and_while_it_is_open_a_study_cancels_nothing(search: Search) -> None:
    created, _ = search.start("grid", grid={"lora.r": [2, 8]}, ablation__seeds=6)
    for run in created[:8]:
        finish_by_rank_clearly(search, run)
    advance_studies(search.folder)
    assert [read_run_status(run).state for run in created[8:]] == ["queued"] * 4
    other, _ = search.start("grid", grid={"lora.r": [2, 8]}, ablation__seeds=6, ablation__stop_when_decided=True)
    assert other == []
    for run in created[8:]:
        request_run_stop(run)
    assert read_run_status(created[8]).message == "", "a person's stop has no reason"


def test_a_run_that_another_study_queued_is_not_cancelled(search: Search) -> None:
    grid: dict[str, list[Any]] = {"lora.r": [2, 8]}
    created, _ = search.start("grid", grid=grid, ablation__seeds=6, ablation__stop_when_decided=True)
    shared = created[-1]
    shared.meta_path.write_text(json.dumps({**read_run_meta(shared), "study": "other"}))
    for run in created[:8]:
        finish_by_rank_clearly(search, run)
    advance_studies(search.folder)
    assert [read_run_status(run).state for run in created[8:]] == ["cancelled"] * 3 + ["queued"]


def test_the_supervisor_does_not_start_what_was_cancelled_at_the_end_of_a_run(search: Search) -> None:
    created, _ = search.start("grid", grid={"lora.r": [2, 8]}, ablation__seeds=6, ablation__stop_when_decided=True)
    for run in created[:8]:
        finish_by_rank_clearly(search, run)
    supervisor = Supervisor(
        search.folder, launcher=LocalLauncher(lambda run, config: ["/bin/false"]), on_run_end=advance_studies
    )
    supervisor.tick()
    assert not any(run.claim_path.exists() for run in created[8:])
    assert {read_run_status(run).state for run in created[8:]} == {"cancelled"}
