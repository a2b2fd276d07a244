"""The fixtures of tests about data."""

from __future__ import annotations

from tests.data.conftest import open_bytes
