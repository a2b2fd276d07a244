"""The fixtures of tests about runs."""

from __future__ import annotations

from tests.fakes.run_fixtures import save_dir, state_dir, supervisor
