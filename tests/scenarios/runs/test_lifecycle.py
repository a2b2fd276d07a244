"""Runs compared with the model in `lifecycle.py`: random actions, two apps. A benchmark does many more."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

from tests.scenarios.runs.lifecycle import RunLife

TestLife = RunLife.TestCase
TestLife.settings = settings(
    max_examples=6,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,  # the same actions in every test run; the benchmark searches for new ones
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
