"""A run that is killed and resumed ends bit for bit with the weights and the curve of an uninterrupted one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, events_of, make_run, train_here
from toolkit.errors import RunError
from toolkit.runs.checkpoints import (
    checkpoint_path,
    list_kept_checkpoints,
    newest_verified_checkpoint,
    verify_checkpoint,
)
from toolkit.runs.events import collect_series
from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import read_run_status

pytestmark = pytest.mark.worker
CURVES = ("loss", "grad_norm", "learning_rate", "tokens", "epoch", "eval_loss")


def settings(save_dir: Path, model: Path, **training: Any) -> dict[str, Any]:
    """Return settings for six steps in three epochs, with all that draws random numbers or sums between steps."""
    chosen = {"num_train_epochs": 3, "gradient_accumulation_steps": 2, "logging_steps": 2, "eval_steps": 3}
    found = draft(save_dir, model, **{**chosen, "save_steps": 1, **training})
    found["lora"]["lora_dropout"] = 0.1
    found["training"]["sft_args"]["neftune_noise_alpha"] = 5.0
    return found


def weights(run: RunDir) -> bytes:
    return (run.adapter_dir / "adapter_model.safetensors").read_bytes()


def curves(run: RunDir) -> dict[str, Any]:
    return {name: points for name, points in collect_series(events_of(run)).items() if name in CURVES}


def train_until_killed(run: RunDir, attempt: int, at: int) -> None:
    """Train in a forked child that is killed just before step `at` is saved."""
    child = os.fork()
    if child == 0:
        from toolkit.worker.checkpoints.checkpointed_trainer import CheckpointWriter

        whole = CheckpointWriter.save_checkpoint

        def save(self: CheckpointWriter, trainer: Any) -> None:
            if trainer.state.global_step == at:
                os.kill(os.getpid(), 9)
            whole(self, trainer)

        CheckpointWriter.save_checkpoint = save  # type: ignore[method-assign]
        os.environ["FTK_ATTEMPT"] = str(attempt)
        train_here(run)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9


def train_until_killed_evaluating(run: RunDir, attempt: int, at: int) -> None:
    """Train in a forked child that is killed in the middle of the evaluation of step `at`."""
    child = os.fork()
    if child == 0:
        from toolkit.worker.training.micro_batches import MicroBatchedTrainer

        whole = MicroBatchedTrainer.prediction_step

        def prediction_step(self: Any, *args: Any, **more: Any) -> Any:
            if self.state.global_step == at:
                os.kill(os.getpid(), 9)
            return whole(self, *args, **more)

        MicroBatchedTrainer.prediction_step = prediction_step  # type: ignore[method-assign]
        os.environ["FTK_ATTEMPT"] = str(attempt)
        train_here(run)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9


def resume_run(run: RunDir, attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_ATTEMPT", str(attempt))
    code, events = train_here(run)
    assert code == 0, events[-1]


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run without an interruption."""
    place = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTK_STATE_DIR", str(place / "state"))
        patch.setenv("OMP_NUM_THREADS", "1")
        run = make_run(settings(place / "save", tiny_model))
        assert train_here(run)[0] == 0
    return run


def test_a_run_killed_at_any_kind_of_step_resumes_bit_for_bit(
    whole: RunDir, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(settings(save_dir, tiny_model))
    # inside an epoch, between two logs; at the end of an epoch; right after an evaluation
    for attempt, at in enumerate((2, 3, 4, 6), 1):
        train_until_killed(run, attempt, at)
    resume_run(run, 5, monkeypatch)
    assert weights(run) == weights(whole)
    assert curves(run) == curves(whole)
    assert [event["step"] for event in events_of(run, "resumed")] == [1, 2, 3, 5]
    assert [event["steps"] for event in events_of(run, "verified")] == [1, 1, 1, 1]
    assert all(event["exact"] for event in events_of(run, "verified"))
    assert len(events_of(run, "prepared")) == 1, "rows are prepared once"
    status = read_run_status(run)
    assert (status.state, status.step, status.attempt, status.verified["steps"]) == ("finished", 6, 5, 1)
    assert list(list_kept_checkpoints(run)) == [6, 5]


def test_a_paused_run_resumes_bit_for_bit(
    whole: RunDir, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.lifecycle.resume_policy import request_resume
    from toolkit.worker.training.reporter import TrainingReporter

    run = make_run(settings(save_dir, tiny_model, save_steps=100))
    on_step_end = TrainingReporter.on_step_end

    def pause_at_three(self: TrainingReporter, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.global_step == 3 and len(events_of(run, "started")) == 1:
            run.stop_path.write_text("pause")
        return on_step_end(self, args, state, control, **more)

    monkeypatch.setattr(TrainingReporter, "on_step_end", pause_at_three)
    assert train_here(run)[0] == 0
    assert (read_run_status(run).state, read_run_status(run).step) == ("paused", 3)
    assert not events_of(run, "eval"), "the evaluation of step 3 is still due"
    request_resume(run)
    resume_run(run, 2, monkeypatch)
    assert weights(run) == weights(whole)
    assert curves(run) == curves(whole)


def test_a_damaged_checkpoint_is_reported_and_the_previous_one_used(
    whole: RunDir, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(settings(save_dir, tiny_model))
    train_until_killed(run, 1, 5)
    broken = checkpoint_path(run, 4) / "optimizer.safetensors"
    raw = bytearray(broken.read_bytes())
    raw[-100] ^= 1
    broken.write_bytes(raw)
    with pytest.raises(RunError, match=r"optimizer\.safetensors is damaged"):
        verify_checkpoint(checkpoint_path(run, 4), run.id)
    resume_run(run, 2, monkeypatch)
    said = " ".join(event["message"] for event in events_of(run, "warning"))
    assert "optimizer.safetensors is damaged" in said
    assert "step 3 is used" in said
    assert events_of(run, "verified")[0]["steps"] == 1  # step 4 was logged, step 5 is not a logging step
    assert weights(run) == weights(whole)
    assert curves(run) == curves(whole)


def test_a_run_without_an_intact_checkpoint_restarts(
    whole: RunDir, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(settings(save_dir, tiny_model))
    train_until_killed(run, 1, 4)
    for path in list_kept_checkpoints(run).values():
        (path / "COMMIT.json").unlink()
    assert newest_verified_checkpoint(run)[0] is None
    resume_run(run, 2, monkeypatch)
    assert "restarts at step 1" in events_of(run, "warning")[0]["message"]
    assert events_of(run, "verified")[0]["exact"] is False, "a restarted run is compared too"
    assert weights(run) == weights(whole)


def test_a_replay_that_differs_is_refused(tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.worker.checkpoints import training_state

    run = make_run(settings(save_dir, tiny_model, save_steps=3, logging_steps=1))
    train_until_killed(run, 1, 6)
    # a resume without the optimizer state, which the library alone would accept without an error
    monkeypatch.setattr(training_state, "load_optimizer_state", lambda trainer, folder: None)
    monkeypatch.setenv("FTK_ATTEMPT", "2")
    code, events = train_here(run)
    assert code == 1
    assert events[-1]["kind"] == "failed"
    assert "does not match the original run" in events[-1]["message"]
    assert not run.adapter_dir.exists()


def test_changed_settings_or_rows_are_refused(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(settings(save_dir, tiny_model))
    train_until_killed(run, 1, 3)
    text = run.config_path.read_text()
    run.config_path.write_text(text.replace("learning_rate: 0.01", "learning_rate: 0.02"))
    monkeypatch.setenv("FTK_ATTEMPT", "2")
    code, events = train_here(run)
    assert (code, events[-1]["kind"]) == (1, "failed")
    assert "its settings changed after the checkpoint was saved" in events[-1]["message"]


def test_another_runs_checkpoint_is_refused(whole: RunDir, tiny_model: Path, save_dir: Path) -> None:
    run = make_run(settings(save_dir, tiny_model))
    shutil.copytree(whole.checkpoints_dir, run.checkpoints_dir)
    found, refused = newest_verified_checkpoint(run)
    assert found is None
    assert len(refused) == 2


@pytest.mark.parametrize("optimizer", ["adafactor", "sgd", "adamw_torch_fused"])
def test_every_optimizer_resumes_bit_for_bit(
    optimizer: str, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = (make_run(settings(save_dir / name, tiny_model, optim=optimizer)) for name in ("whole", "killed"))
    assert train_here(whole)[0] == 0
    train_until_killed(run, 1, 4)
    resume_run(run, 2, monkeypatch)
    assert weights(run) == weights(whole)
    assert curves(run) == curves(whole)


def test_early_stopping_ends_at_the_right_step_and_restores_the_best_weights(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.training.best_checkpoint import BestCheckpointCallback

    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.5, 5: 1.0, 6: 1.0}
    on_evaluate = BestCheckpointCallback.on_evaluate

    def on_evaluate_with_losses(
        self: BestCheckpointCallback, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any
    ) -> None:
        on_evaluate(self, args, state, control, {"eval_loss": losses[state.global_step]}, **more)

    monkeypatch.setattr(BestCheckpointCallback, "on_evaluate", on_evaluate_with_losses)
    stopping = {"early_stopping_patience": 2, "load_best_at_end": True, "eval_steps": 1, "save_steps": 100}
    whole = make_run(settings(save_dir / "whole", tiny_model, **stopping))
    assert train_here(whole)[0] == 0
    assert [event["step"] for event in events_of(whole, "best")] == [1, 2]
    (early,) = events_of(whole, "early")
    assert (early["step"], early["best_step"], early["evaluations"]) == (4, 2, 2)
    status = read_run_status(whole)
    assert (status.state, status.step, status.total_steps) == ("finished", 4, 6)
    assert events_of(whole, "adapter")[0]["step"] == 2
    assert set(list_kept_checkpoints(whole)) == {4, 2}

    # killed before the end is saved, and again after it: patience and the best survive
    run = make_run(settings(save_dir / "killed", tiny_model, **stopping))
    train_until_killed(run, 1, 4)
    monkeypatch.setenv("FTK_ATTEMPT", "2")
    assert train_here(run)[0] == 0
    assert events_of(run, "early")[-1]["step"] == 4
    assert weights(run) == weights(whole)
    shutil.rmtree(run.adapter_dir)
    resume_run(run, 3, monkeypatch)
    assert weights(run) == weights(whole)
    assert len(events_of(run, "plan")) == 2, "the third attempt had nothing left to train"


def test_a_checkpoint_is_written_before_a_long_evaluation(
    whole: RunDir, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(settings(save_dir, tiny_model, save_steps=None))
    train_until_killed_evaluating(run, 1, 3)
    assert [event["step"] for event in events_of(run, "saved")] == [3]
    assert not events_of(run, "eval")
    resume_run(run, 2, monkeypatch)
    assert events_of(run, "resumed")[0]["step"] == 3, "no step is trained again"
    assert weights(run) == weights(whole)
    assert curves(run) == curves(whole)


def test_a_run_killed_in_its_last_evaluation_still_ends_early(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.checkpoints.pace import CheckpointPace
    from toolkit.worker.training.best_checkpoint import BestCheckpointCallback

    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.5}
    on_evaluate = BestCheckpointCallback.on_evaluate

    def on_evaluate_with_losses(
        self: BestCheckpointCallback, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any
    ) -> None:
        on_evaluate(self, args, state, control, {"eval_loss": losses[state.global_step]}, **more)

    monkeypatch.setattr(BestCheckpointCallback, "on_evaluate", on_evaluate_with_losses)
    monkeypatch.setattr(CheckpointPace, "due_before", lambda self, seconds: True)
    stopping = {"early_stopping_patience": 2, "load_best_at_end": True, "eval_steps": 1, "save_steps": None}
    run = make_run(settings(save_dir, tiny_model, **stopping))
    train_until_killed_evaluating(run, 1, 4)
    resume_run(run, 2, monkeypatch)
    assert events_of(run, "resumed")[0]["step"] == 4
    status = read_run_status(run)
    assert (status.state, status.step, status.early["step"]) == ("finished", 4, 4), "no step is trained after it"
    assert events_of(run, "adapter")[0]["step"] == 2, "the best weights are restored"


def test_after_a_kill_the_first_and_the_last_replayed_step_are_saved(
    whole: RunDir, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.runs.events import EventWriter

    run = make_run(settings(save_dir, tiny_model, save_steps=100))
    train_until_killed_evaluating(run, 1, 3)  # it would be saved only at its end; step 2 is logged
    with EventWriter(run.events_path, 1) as events:
        events.append("interrupted", reason="killed", message="", hint="", outside=True)
    resume_run(run, 2, monkeypatch)
    assert [event["step"] for event in events_of(run, "saved")] == [1, 2, 6]
    assert weights(run) == weights(whole)


def test_a_new_run_starts_from_another_runs_weights(
    whole: RunDir, tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from toolkit.lifecycle.continue_run import continue_run, list_start_checkpoints
    from toolkit.worker.training import attempt as attempt_module

    monkeypatch.setenv("FTK_STATE_DIR", str(whole.save_dir.parent / "state"))
    last = list_start_checkpoints(whole, read_run_status(whole))[0]
    new = continue_run(whole, last, 1)
    first: list[dict[str, Any]] = []
    begin = attempt_module.TrainingAttempt._load_start_weights

    def begun(self: Any) -> None:
        begin(self)
        first.append({n: w.detach().clone() for n, w in self._trainer.model.named_parameters() if w.requires_grad})

    monkeypatch.setattr(attempt_module.TrainingAttempt, "_load_start_weights", begun)
    code, events = train_here(new)
    assert code == 0, events[-1]
    (began,) = events_of(new, "began_from")
    assert (began["run"], began["step"]) == (whole.id, 6)
    saved = load_file(last.path / "weights.safetensors")
    assert all((first[0][name] == saved[name]).all() for name in saved)
    assert read_run_status(new).total_steps == 2
    assert events_of(new, "log")[0]["loss"] < events_of(whole, "log")[0]["loss"]
