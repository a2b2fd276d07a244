"""A study from the command line whose worker and whose command are killed: it continues and trains nothing twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.fakes.study_kills import (
    STUDY_AXES,
    assert_each_trial_was_trained_once,
    assert_verdict_is_right,
    kill_a_worker,
    make_study_draft,
    wait_for_finished,
)
from tests.fakes.training import ROOT
from toolkit.settings.draft import replace_setting

pytestmark = pytest.mark.worker


@pytest.mark.timeout(1500)  # twelve runs, one after another
def test_a_study_from_the_command_line_survives_two_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTK_SPARE", "1")  # each run is a fork of the standby worker, and starts at once
    save_dir = tmp_path / "experiments"
    draft = make_study_draft(save_dir)
    for path, values in STUDY_AXES.items():
        draft = replace_setting(draft, path, values)
    config = tmp_path / "study.yml"
    config.write_text(yaml.safe_dump(draft))
    command = [sys.executable, "-m", "toolkit", "study", str(config)]
    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for_finished(save_dir, 2)
        killed = kill_a_worker(save_dir)
        wait_for_finished(save_dir, 6)
    finally:
        first.kill()
        first.wait(60)
    again = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1000)
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
    assert_each_trial_was_trained_once(save_dir, killed)
    said = " ".join(again.stdout.replace("\u00a0", " ").split())
    assert " ".join(assert_verdict_is_right(save_dir).replace("\u00a0", " ").split()) in said
