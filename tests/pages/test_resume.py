"""Pause, resume, continued training and verified resumes on the Runs page."""

from __future__ import annotations

from tests.pages.conftest import Stage, button, words
from toolkit.runs.run_dir import PAUSE_REQUEST, RunDir, list_runs, read_run_config, read_run_meta
from toolkit.runs.status import read_run_status
from toolkit.system.durable import commit_dir

PLAN = ("plan", {"total_steps": 100, "epochs": 2})
SAVED = ("saved", {"step": 40, "bytes": 10_000, "seconds": 0.1})


def checkpoint(run: RunDir, step: int) -> None:
    staging = run.path / "checkpoints" / ".new"
    staging.mkdir(parents=True)
    (staging / "weights.safetensors").write_bytes(b"w" * 100)
    extra = {"kind": "checkpoint", "run": run.id, "step": step}
    commit_dir(staging, run.checkpoints_dir / f"step-{step:06d}", extra)


def test_an_interrupted_run_says_that_it_continues(stage: Stage) -> None:
    why = {"reason": "killed", "message": "The worker was killed from outside.", "hint": "h"}
    run = stage.run(("started", {}), PLAN, SAVED, ("interrupted", why))
    app = stage.page("runs", run)
    message = app.info[0].value.replace("\\", "")
    assert "killed from outside" in message
    assert "continues automatically from step 40" in message


def test_a_paused_run_offers_resume(stage: Stage) -> None:
    run = stage.run(("started", {}), PLAN, SAVED, ("stopped", {"step": 40, "paused": True}))
    run.stop_path.write_text(PAUSE_REQUEST)
    app = stage.page("runs", run)
    assert "Paused" in words(app)
    button(app, "Resume").click().run()
    assert not app.exception
    assert read_run_status(run).state == "queued"
    assert not run.stop_path.exists()


def test_a_finished_run_offers_continued_training_but_no_resume(stage: Stage) -> None:
    run = stage.finished("first")
    checkpoint(run, 96)
    checkpoint(run, 80)
    app = stage.page("runs", run)
    assert not [one for one in app.button if one.label == "Resume"]
    button(app, "Continue training").click().run()
    assert "start from the beginning" in words(app)
    assert [one.label for one in app.selectbox if one.label == "Checkpoint"] == ["Checkpoint"]


def test_continued_training_starts_from_a_checkpoint(stage: Stage) -> None:
    from tests.fakes.training import make_table
    from toolkit.lifecycle.continue_run import continue_run, list_start_checkpoints

    run = stage.finished("first")
    make_table(run.source_path, [{"message": "a", "answer": "b"}])
    checkpoint(run, 96)
    (kept,) = list_start_checkpoints(run, read_run_status(run))
    assert kept.last
    new = continue_run(run, kept, 5)
    assert read_run_config(new).training.training_args.num_train_epochs == 5
    assert read_run_meta(new)["start"] == {"run": run.id, "step": 96}
    assert (new.start_dir / "weights.safetensors").read_bytes() == b"w" * 100
    assert {one.id for one in list_runs(stage.folder)} == {run.id, new.id}


def test_a_verified_resume_and_early_stopping_are_shown(stage: Stage) -> None:
    run = stage.run(
        ("started", {}),
        PLAN,
        SAVED,
        ("verified", {"steps": 7, "exact": True, "tolerance": 0.0}),
        ("best", {"step": 30, "eval_loss": 0.5}),
        ("early", {"step": 60, "evaluations": 3, "best_step": 30, "best_loss": 0.5}),
        ("finished", {"step": 60}),
    )
    text = words(stage.page("runs", run))
    assert "Resume verified: 7 replayed steps identical" in text
    assert "Stopped early at step 60: 3 evaluations without a lower test loss" in text
    assert "Lowest test loss: 0.5 at step 30" in text
