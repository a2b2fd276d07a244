"""The app without a browser."""

from __future__ import annotations

import time

from tests.browser.server import Server
from tests.fakes.training import draft, make_run
from toolkit.runs.status import read_run_status


def test_a_queued_run_is_started_without_an_open_page(server: Server) -> None:
    run = make_run(draft(server.save_dir, server.save_dir / "no model there"))
    deadline = time.monotonic() + 120
    while not read_run_status(run).has_ended:
        assert time.monotonic() < deadline, read_run_status(run)
        time.sleep(0.5)
    assert "no model there" in read_run_status(run).message
