"""The watch on the loss: the step of the first NaN, no checkpoint of it, and no false alarm for a noisy loss."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.training import draft, events_of, make_run, train_here
from toolkit.runs.checkpoints import list_kept_checkpoints
from toolkit.runs.status import read_run_status

pytestmark = pytest.mark.worker


def test_a_nan_loss_is_found_at_its_step_and_never_saved(
    tiny_model: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.worker.training.trainer import PreparedTrainer

    whole = PreparedTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **more: Any) -> Any:
        loss = whole(self, *args, **more)
        return loss * math.nan if self.state.global_step == 4 and self.model.training else loss

    monkeypatch.setattr(PreparedTrainer, "compute_loss", compute_loss)
    # logged only every 4 steps: the mean of steps 5 to 8 would show the NaN, but not its step
    run = make_run(draft(save_dir, tiny_model, logging_steps=4, save_steps=1, eval_steps=100))
    code, events = train_here(run)
    assert code == 1
    assert (events[-1]["kind"], events[-1]["reason"], events[-1]["step"]) == ("failed", "diverged", 5)
    assert "at step 5" in events[-1]["message"]
    assert read_run_status(run).state == "failed"
    assert next(iter(list_kept_checkpoints(run))) == 4
    assert not events_of(run, "adapter")


def test_the_first_non_finite_loss_is_recorded() -> None:
    import torch

    from toolkit.worker.training.loss_watch import LossWatch

    watch = LossWatch()
    for step, value in enumerate([2.0, math.inf, 1.0, math.nan], 1):
        assert watch.first_non_finite_step() == (2 if step > 2 else None)
        watch.record_loss(torch.tensor(value), step)
    assert watch.first_non_finite_step() == 2


@pytest.mark.parametrize(
    ("losses", "seen"),
    [
        ([3.0, 2.0, 40.0, 2.0, 2.0, 1.0, 1.0], False),
        ([3.0, 9.0, 60.0, 90.0, 200.0, 400.0, 400.0], True),
        ([30.0] * 9, False),
        ([2.0, 1e6, 1e6], False),
    ],
)
def test_an_exploding_loss_is_far_above_guessing_for_several_logs(losses: list[float], seen: bool) -> None:
    from toolkit.worker.training.loss_watch import ExplosionDetector

    watch = ExplosionDetector(320)
    assert any(watch.is_exploding(loss) for loss in losses) is seen
