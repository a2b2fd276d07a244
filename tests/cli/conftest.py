"""Fixtures for tests with runs."""

from __future__ import annotations

from tests.fakes.run_fixtures import save_dir, state_dir, supervisor
