"""Fixtures for runs whose log the test writes itself."""

from __future__ import annotations

from tests.fakes.run_fixtures import save_dir, state_dir
