"""The app is killed in the middle of a study by TPE, and the next one goes on. Real processes, fake workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fakes.run_fixtures import state_dir  # noqa: F401 - used by every test
from toolkit.cli.queue_config import queue_config
from toolkit.runs.events import read_events
from toolkit.runs.run_dir import list_runs, read_run_meta
from toolkit.runs.status import read_run_status
from toolkit.settings.import_export import import_settings_file
from toolkit.studies.outcomes import read_study
from toolkit.system.paths import PROJECT_ROOT

APP = """
import sys, threading
from pathlib import Path
from tests.fakes.run_fixtures import fake_command
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.studies.methods.advance import advance_studies
# as `get_supervisor` in toolkit/ui/frame/page.py
Supervisor(
    Path(sys.argv[1]), launcher=LocalLauncher(fake_command), poll_seconds=0.02, on_run_end=advance_studies
).start()
threading.Event().wait()
"""
WAIT_SECONDS = 300
CONFIG = """
data: {path: rows.csv, prompt: "{question}", prompt_stub: "{answer}"}
lora: {r: 2..64, bias: [none, all]}
ablation: {use_ablate: true, study_name: find, method: tpe, trials: 6}
"""


def start_app(save_dir: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    return subprocess.Popen([sys.executable, "-c", APP, str(save_dir)], env=environment)


def wait_for_runs(save_dir: Path, app: subprocess.Popen[bytes], count: int, state: str = "") -> None:
    """Wait until there are so many runs, all of them in this state if one is given."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        states = [read_run_status(run).state for run in list_runs(save_dir)]
        if (states.count(state) if state else len(states)) >= count:
            return
        assert app.poll() is None and time.monotonic() < deadline, states
        time.sleep(0.02)


@pytest.mark.worker  # starts whole programs
@pytest.mark.timeout(900)
def test_a_study_by_tpe_goes_on_after_the_app_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(10)))
    (tmp_path / "study.yml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    save_dir = tmp_path / "experiments"
    assert len(queue_config(import_settings_file(tmp_path / "study.yml"))) == 4
    for trials, state in ((5, ""), (6, "finished")):  # TPE chooses from the fifth on
        app = start_app(save_dir)
        try:
            wait_for_runs(save_dir, app, trials, state)
        finally:
            app.kill()
            app.wait(60)
    runs = list_runs(save_dir)
    assert len(runs) == 6 == len({str(read_run_meta(run)["settings"]) for run in runs})
    kinds = [[event["kind"] for event in read_events(run.events_path)[0]] for run in runs]
    assert [found.count("finished") for found in kinds] == [1] * 6, "none is trained twice"
    study = read_study(save_dir, "find")
    assert [one.state for one in study.outcomes] == ["finished"] * 6
    assert all(2 <= one.asked.settings["lora.r"] <= 64 for one in study.outcomes)
