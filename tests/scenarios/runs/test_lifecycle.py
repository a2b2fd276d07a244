"""A run's life against a small model (`lifecycle.py`): random acts, two apps. The long form is a benchmark."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

from tests.scenarios.runs.lifecycle import RunLife

TestLife = RunLife.TestCase
TestLife.settings = settings(
    max_examples=6,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,  # the same acts at every check; the long form looks for new ones
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
