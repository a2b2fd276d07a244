"""When a checkpoint is due: unsaved seconds and seconds spent on saving, in a training with a simulated clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.worker.checkpoints.pace import (
    FIRST_INTERVAL_SECONDS,
    MAX_SAVE_SHARE,
    MAX_UNSAVED_SECONDS,
    CheckpointPace,
    checkpoint_interval,
)


@dataclass
class SimulatedTraining:
    """A simulated training whose steps, evaluations and checkpoints take the given seconds."""

    step_seconds: float
    save_seconds: float
    evaluation_seconds: float = 0.0
    evaluation_every: int = 0
    now: float = 0.0
    saving: float = 0.0
    trained: float = 0.0  # seconds of training since the last commit
    unsaved: list[float] = field(default_factory=list)  # the value of `trained` at the end of each step

    def run(self, seconds: float) -> None:
        pace = CheckpointPace(clock=lambda: self.now)
        pace.start_clock()
        step, known = 0, None
        while self.now < seconds:
            step, self.now, self.trained = step + 1, self.now + self.step_seconds, self.trained + self.step_seconds
            self.unsaved.append(self.trained)
            due = pace.due(step)
            if self.evaluation_every and step % self.evaluation_every == 0:
                if pace.due_before(known):
                    self._save(pace, step)
                    due = False
                self.now += self.evaluation_seconds
                known = self.evaluation_seconds
            if due:
                self._save(pace, step)

    def _save(self, pace: CheckpointPace, step: int) -> None:
        self.now += self.save_seconds
        self.saving += self.save_seconds
        self.trained = 0.0
        pace.note_saved(step, self.save_seconds)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 20.0), st.floats(0.001, 0.5))
def test_little_training_is_unsaved_and_little_time_is_spent_on_saving(
    step_seconds: float, save_seconds: float
) -> None:
    training = SimulatedTraining(step_seconds, save_seconds)
    training.run(3000)
    assert max(training.unsaved) <= MAX_UNSAVED_SECONDS + step_seconds
    assert training.saving <= MAX_SAVE_SHARE * training.now + save_seconds


@settings(max_examples=50, deadline=None)
@given(st.floats(0.2, 5.0), st.floats(0.001, 0.3), st.floats(1.0, 900.0), st.integers(1, 50))
def test_a_long_evaluation_leaves_no_more_training_unsaved(
    step_seconds: float, save_seconds: float, evaluation_seconds: float, every: int
) -> None:
    training = SimulatedTraining(step_seconds, save_seconds, evaluation_seconds, every)
    training.run(3000)
    assert max(training.unsaved) <= MAX_UNSAVED_SECONDS + step_seconds
    assert training.saving <= MAX_SAVE_SHARE * training.now + 2 * save_seconds


def test_slow_checkpoints_are_written_less_often() -> None:
    assert [checkpoint_interval(seconds) for seconds in (None, 0.01, 0.2, 0.6, 6.0)] == [
        FIRST_INTERVAL_SECONDS,
        FIRST_INTERVAL_SECONDS,
        40.0,
        60.0,
        600.0,
    ]


def test_a_fixed_interval_and_extra_steps_are_kept() -> None:
    pace = CheckpointPace(step_interval=4, extra_steps={6})
    assert [step for step in range(1, 13) if pace.due(step)] == [4, 6, 8, 12]
    assert not pace.due_before(1000.0)


@pytest.mark.parametrize(("waited", "seconds", "due"), [(0.1, None, True), (5.0, 1.0, False), (9.5, 1.0, True)])
def test_a_checkpoint_is_due_before_an_evaluation_of_unknown_length(
    waited: float, seconds: float | None, due: bool
) -> None:
    now = [0.0]
    pace = CheckpointPace(clock=lambda: now[0])
    pace.start_clock()
    now[0] = waited
    assert pace.due_before(seconds) is due
