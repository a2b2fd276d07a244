"""Fixtures for runs that are given to a cluster."""

from __future__ import annotations

from tests.fakes.run_fixtures import save_dir, state_dir
