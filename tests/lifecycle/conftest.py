"""Fixtures for runs with a fake worker."""

from __future__ import annotations

from tests.fakes.run_fixtures import save_dir, state_dir, supervisor
