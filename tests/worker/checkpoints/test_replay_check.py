"""What a resume compares: all figures that follow from the training, and none that measure the machine."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit.worker.checkpoints.replay_check import ReplayCheck, ResumeRefused

LOG: dict[str, Any] = {
    "loss": 1.5,
    "grad_norm": 0.25,
    "learning_rate": 1e-3,
    "tokens": 100,
    "epoch": 0.5,
    "peak_bytes": 5,
    "new": 1.0,
}
EVAL = {"eval_loss": 1.25, "epoch": 0.5}


def replay(exact: bool = True) -> tuple[ReplayCheck, list[tuple[str, dict[str, Any]]]]:
    told: list[tuple[str, dict[str, Any]]] = []
    before = [{"kind": "log", "step": 8, **LOG}, {"kind": "eval", "step": 8, **EVAL}, {"kind": "log", "step": 4, **LOG}]
    return ReplayCheck(lambda kind, **fields: told.append((kind, fields)), before, 4, exact=exact), told


def test_equal_steps_are_verified_and_machine_figures_ignored() -> None:
    compare, told = replay()
    assert compare.steps == 4
    compare("log", step=8, **{**LOG, "peak_bytes": 9, "new": 2.0, "tokens_per_second": 3.0})
    compare("eval", step=8, **EVAL)
    compare("log", step=12, **LOG)
    compare.finish()
    assert [fields for kind, fields in told if kind == "verified"] == [{"steps": 4, "exact": True, "tolerance": 0.0}]


def test_verified_steps_are_reported_with_the_next_checkpoint() -> None:
    compare, told = replay()
    compare("saved", step=5)
    compare("log", step=8, **LOG)
    compare("saved", step=8)
    assert [kind for kind, _ in told] == ["saved", "log", "saved"], "the evaluation of that step is still to come"
    compare("eval", step=8, **EVAL)
    compare("saved", step=9)
    compare("log", step=12, **LOG)
    compare.finish()
    assert [kind for kind, _ in told if kind in ("saved", "verified")] == ["saved", "saved", "saved", "verified"]


@pytest.mark.parametrize("name", ["loss", "grad_norm", "learning_rate", "tokens", "epoch"])
def test_the_last_bit_counts(name: str) -> None:
    compare, _ = replay()
    with pytest.raises(ResumeRefused, match=f"{name} at step 8"):
        compare("log", step=8, **{**LOG, name: LOG[name] + (1 if name == "tokens" else 1e-15)})


def test_evaluations_are_compared_too() -> None:
    compare, _ = replay()
    with pytest.raises(ResumeRefused, match="eval_loss"):
        compare("eval", step=8, eval_loss=1.2500001, epoch=0.5)


def test_on_another_machine_losses_may_differ_slightly() -> None:
    compare, told = replay(exact=False)
    compare("log", step=8, **{**LOG, "loss": 1.51, "grad_norm": 0.5})
    compare.finish()
    assert told[-1][1]["tolerance"] == 0.05
    compare, _ = replay(exact=False)
    with pytest.raises(ResumeRefused):
        compare("log", step=8, **{**LOG, "loss": 2.0})
