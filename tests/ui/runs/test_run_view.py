"""The run view: the end of the log, start times and the refresh interval."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pandas as pd

from toolkit.runs.run_dir import RunDir
from toolkit.runs.status import RunStatus
from toolkit.settings.draft import default_draft
from toolkit.ui.runs.run_table import run_table_row
from toolkit.ui.runs.run_view import LOG_LINES, read_last_log_lines, run_refresh_seconds
from toolkit.ui.workspace.run_entries import RunEntry
from toolkit.ui.workspace.run_facts import RunSummary


def test_only_the_last_state_of_a_progress_bar_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"begin\nload 1%\rload 50%\rload 100%\r\nend\r\n")
    assert read_last_log_lines(log) == "begin\nload 100%\nend"
    log.write_text("".join(f"{number}%\r" for number in range(500)) + "\nafter\n")
    assert read_last_log_lines(log) == "499%\nafter"
    log.write_text("line\n" * 500)
    assert read_last_log_lines(log).count("line") == LOG_LINES


def test_start_times_in_winter_and_summer_keep_their_local_hour() -> None:
    starts = [
        datetime(2026, month, 5, 12, tzinfo=timezone(timedelta(hours=hours))) for month, hours in ((1, 1), (7, 2))
    ]
    rows = [
        run_table_row(
            RunEntry(RunDir(Path("r")), RunSummary("run", start, "", {}, {}, default_draft()), RunStatus("finished"))
        )
        for start in starts
    ]
    started = pd.DataFrame(rows)["Started"]
    assert started.dt.hour.tolist() == [12, 12]


def test_a_run_with_much_time_left_refreshes_less_often_from_then_on() -> None:
    near, far, unknown = (RunStatus("running", remaining_s=left) for left in (60.0, 4000.0, None))
    assert [run_refresh_seconds(status) for status in (near, far, unknown)] == [1.0, 2.0, 1.0]
    assert [run_refresh_seconds(status, 2.0) for status in (near, far, unknown)] == [2.0, 2.0, 2.0]
