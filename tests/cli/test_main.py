"""The command line: output, exit codes, and the effect of Ctrl-C on a run."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.run_fixtures import fake_command, queue, wait_for
from toolkit.access.token_file import SAVE_DIR_VARIABLE, load_access_token, write_address
from toolkit.cli import main
from toolkit.lifecycle.claims import read_claim
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.run_dir import RunDir, kill_run, list_runs, read_run_config, read_run_meta
from toolkit.runs.slots import count_slots
from toolkit.runs.status import read_run_status
from toolkit.settings.import_export import load_presets
from toolkit.system.paths import PROJECT_ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's folder with a CSV file; the worker is a fake."""
    (tmp_path / "rows.csv").write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(10)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTK_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(
        main, "Supervisor", functools.partial(Supervisor, launcher=LocalLauncher(fake_command), poll_seconds=0.02)
    )
    yield tmp_path
    for run in list_runs(tmp_path / "experiments"):
        kill_run(run, 0.2)


def write_config(folder: Path, more: str = "") -> Path:
    path = folder / "config.yml"
    path.write_text('data:\n  path: rows.csv\n  prompt: "{question}"\n  prompt_stub: "{answer}"\n' + more)
    return path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["toolkit", *words])
    with pytest.raises(SystemExit) as left:
        main.main()
    return int(left.value.code or 0)


def test_a_run_trains_to_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder)
    assert call(monkeypatch, "run", "config.yml", "--name", "my first") == 0
    (run,) = list_runs(folder / "experiments")
    out = capsys.readouterr().out
    assert "Finished after" in out
    assert read_run_meta(run)["name"] == "my first"
    assert str(read_run_config(run).data.path) == str(folder / "rows.csv"), "the worker runs in another folder"
    assert run.source_path.exists()
    assert call(monkeypatch, "list") == 0
    listed = capsys.readouterr().out
    assert run.id in listed
    assert "my first" in listed
    assert "finished" in listed
    assert "100 %" in listed


def test_all_problems_are_printed_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder, "lora:\n  r: -1\n  bias: some\nsurprise: 1\n")
    assert call(monkeypatch, "run", "config.yml") == 2
    err = capsys.readouterr().err
    for field in ("lora.r", "lora.bias", "surprise"):
        assert f"error: {field}" in err
    assert "Traceback" not in err
    assert list_runs(folder / "experiments") == []


def test_problems_of_data_and_disk_come_before_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.yml").write_text(
        'data: {path: rows.csv, prompt: "{questoin}", prompt_stub: "{answer}", train_size: 100}\n'
        "model: {hf_model_ckpt: ./nowhere}\n"
    )
    assert call(monkeypatch, "run", "config.yml") == 2
    err = capsys.readouterr().err
    for field in ("data.prompt", "data.train_size", "model.hf_model_ckpt"):
        assert f"error: {field}" in err
    assert list_runs(folder / "experiments") == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run", "missing.yml"), 2, "missing.yml"),
        (("run", "rows.csv"), 2, "error"),
        (("serve", "no-such-run"), 1, "There is no run"),
        (("nonsense",), 2, "nonsense"),
        (("list",), 0, ""),
    ],
)
def test_wrong_arguments_exit_with_a_message(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    assert call(monkeypatch, *words) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_the_link_of_the_app_is_printed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(SAVE_DIR_VARIABLE, raising=False)
    write_address(folder / "experiments", "http://localhost:8502")  # as the app does when it starts in this folder
    token = load_access_token(folder / "experiments")
    assert call(monkeypatch, "link") == 0
    assert capsys.readouterr().out == f"http://localhost:8502/?token={token}\n"
    assert call(monkeypatch, "link", "--save-dir", str(folder / "other")) == 0
    assert token not in capsys.readouterr().out


def test_an_internal_error_is_printed_without_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(save_dir: Path) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(main, "list_runs", broken)
    assert call(monkeypatch, "list") == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.setenv("FTK_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["toolkit", "list"])
    with pytest.raises(ZeroDivisionError):
        main.main()


def test_a_blocking_problem_is_accepted_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder)
    assert call(monkeypatch, "run", "config.yml", "--accept", "placeholder", "--accept", "double_bos") == 0
    (run,) = list_runs(folder / "experiments")
    assert read_run_config(run).data.accepted == ["placeholder", "double_bos"], "the run records what was accepted"
    assert call(monkeypatch, "run", "config.yml", "--accept", "nonsense") == 2
    err = capsys.readouterr().err
    assert "error: data.accepted" in err and "placeholder" in err, "the allowed names are listed"
    assert call(monkeypatch, "run", "config.yml", "--accept", "mask_wrong") == 2, "this one cannot be accepted"
    assert len(list_runs(folder / "experiments")) == 1


def failing_command(run: RunDir, config: object) -> list[str]:
    return [sys.executable, "-c", "raise MemoryError"]


def test_a_failed_run_is_printed_with_its_reason(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        main, "Supervisor", functools.partial(Supervisor, launcher=LocalLauncher(failing_command), poll_seconds=0.02)
    )
    write_config(folder)
    assert call(monkeypatch, "run", "config.yml") == 1
    err = capsys.readouterr().err
    assert "ran out of memory" in err
    assert "per_device_train_batch_size" in err
    assert "worker.log" in err


def test_a_study_runs_every_combination_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder, "lora:\n  r: [4, 8]\nablation:\n  use_ablate: true\n  study_name: ranks\n  seeds: 1\n")
    assert call(monkeypatch, "run", "config.yml") == 0
    runs = list_runs(folder / "experiments")[::-1]
    assert [read_run_meta(run)["settings"] for run in runs] == [{"lora.r": 4}, {"lora.r": 8}]
    assert [read_run_config(run).lora.r for run in runs] == [4, 8]
    assert {read_run_meta(run)["study"] for run in runs} == {"ranks"}
    assert [read_run_status(run).state for run in runs] == ["finished"] * 2
    assert "2 runs" in capsys.readouterr().out


def test_a_study_uses_as_many_slots_as_are_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("toolkit.runs.slots.training_cores", lambda: 2)
    monkeypatch.setattr("toolkit.cli.queue_config.probe_machine", lambda save_dir: None)
    write_config(folder, "lora:\n  r: [4, 8]\nablation:\n  use_ablate: true\n  study_name: ranks\n  seeds: 2\n")
    assert call(monkeypatch, "study", "config.yml", "--slots", "3") == 1
    assert "3 runs at the same time are not possible: this machine has 2 cores" in " ".join(
        capsys.readouterr().err.split()
    )
    assert call(monkeypatch, "study", "config.yml", "--slots", "2") == 0
    assert "4 runs (2 combinations × 2 seeds), 2 at the same time." in " ".join(capsys.readouterr().out.split())
    claims = [read_claim(run) for run in reversed(list_runs(folder / "experiments"))]
    assert [claim.slots for claim in claims if claim is not None][:2] == [(0,), (1,)]
    assert count_slots(folder / "experiments") == 2, "for the next runs too"


def test_a_study_that_was_killed_is_completed_and_trains_nothing_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder, "lora:\n  r: [4, 8]\nablation:\n  use_ablate: true\n  study_name: ranks\n")
    with monkeypatch.context() as broken:
        broken.setattr(main, "_run_all", lambda runs, find_more: 1)  # killed after the runs were queued
        assert call(monkeypatch, "run", "config.yml") == 1
    assert "6 runs (2 combinations × 3 seeds)" in capsys.readouterr().out
    assert call(monkeypatch, "run", "config.yml") == 0
    assert call(monkeypatch, "study", "config.yml") == 0
    assert "6 of them are trained or queued already" in capsys.readouterr().out
    runs = list_runs(folder / "experiments")
    assert [read_run_status(run).state for run in runs] == ["finished"] * 6
    assert {(run.path / "starts").read_text().count("\n") for run in runs} == {1}
    assert sorted(read_run_config(run).training.training_args.seed for run in runs) == [42, 42, 43, 43, 44, 44]
    assert call(monkeypatch, "study", "config.yml", "--seeds", "4") == 0
    assert len(list_runs(folder / "experiments")) == 8
    capsys.readouterr()
    assert call(monkeypatch, "study", "ranks", "--report", "out.html", "--csv", "trials.csv") == 0
    out = capsys.readouterr().out
    assert "LoRA rank (r) is within noise" in out and "Use LoRA rank (r) 4, the smaller of two equals." in out
    assert out.count("finished") == 8 and "Written: out.html" in out
    assert "LoRA rank (r) is within noise" in (folder / "out.html").read_text()
    assert (folder / "trials.csv").read_text().count("\n") == 9
    assert call(monkeypatch, "study", "none") == 1
    assert "There is no study 'none'" in capsys.readouterr().err
    write_config(folder, "lora:\n  r: [4, 16]\nablation:\n  use_ablate: true\n  study_name: ranks\n")
    assert call(monkeypatch, "run", "config.yml") == 2
    err = capsys.readouterr().err
    assert "ablation.study_name: The study 'ranks' already exists with other values" in err and "'ranks 2'" in err


def test_queued_trials_that_came_from_elsewhere_are_named_and_not_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder, "lora:\n  r: [4, 8]\nablation:\n  use_ablate: true\n  study_name: ranks\n  seeds: 1\n")
    with monkeypatch.context() as broken:
        broken.setattr(main, "_run_all", lambda runs, find_more: 1)
        assert call(monkeypatch, "study", "config.yml") == 1
    first, second = list_runs(folder / "experiments")
    first.meta_path.write_text(json.dumps({**read_run_meta(first), "approved": "elsewhere"}))
    capsys.readouterr()
    assert call(monkeypatch, "study", "config.yml") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "1 queued run came with the folder from elsewhere" in out and f"python -m toolkit resume {first.id}" in out
    assert [read_run_status(run).state for run in (first, second)] == ["queued", "finished"]
    assert call(monkeypatch, "resume", first.id) == 0
    assert read_run_status(first).state == "finished"


def test_a_study_by_tpe_trains_its_number_of_trials_and_goes_on_after_a_kill(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "lora:\n  r: [2, 4, 8, 16]\n  bias: [none, all]\nablation:\n  use_ablate: true\n  study_name: find\n"
    write_config(folder, more)
    words = ("study", "config.yml", "--method", "tpe", "--trials")
    with monkeypatch.context() as broken:
        broken.setattr(main, "_run_all", lambda runs, find_more: 1)  # killed after the first runs were queued
        assert call(monkeypatch, *words, "6") == 1
    out = capsys.readouterr().out
    assert "4 runs (4 combinations × 1 seed), one after another, then 2 runs that TPE chooses by the results" in out
    assert call(monkeypatch, *words, "6") == 0
    runs = list_runs(folder / "experiments")
    assert [read_run_status(run).state for run in runs] == ["finished"] * 6
    assert len({str(read_run_meta(run)["settings"]) for run in runs}) == 6
    assert call(monkeypatch, *words, "7") == 0
    assert len(list_runs(folder / "experiments")) == 7
    assert {(run.path / "starts").read_text().count("\n") for run in list_runs(folder / "experiments")} == {1}
    assert call(monkeypatch, "study", "config.yml", "--trials", "3") == 2
    assert "no effect on a grid" in capsys.readouterr().err
    write_config(folder, more.replace("find", "some"))
    assert call(monkeypatch, "study", "config.yml", "--method", "random", "--trials", "3", "--seeds", "1") == 0
    assert "3 runs (3 combinations × 1 seed)" in capsys.readouterr().out
    assert len(list_runs(folder / "experiments")) <= 10, "what the other study has trained is not trained again"


def test_a_study_that_stops_when_decided_cancels_the_rest_and_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder, "lora:\n  r: [4, 8]\nablation:\n  use_ablate: true\n  study_name: ranks\n")
    assert call(monkeypatch, "study", "config.yml", "--seeds", "8", "--stop-when-decided") == 0
    states = [read_run_status(run).state for run in list_runs(folder / "experiments")]
    assert states.count("finished") < 16 and set(states) == {"finished", "cancelled"}
    assert "The study is decided: " in capsys.readouterr().out
    assert call(monkeypatch, "study", "config.yml", "--seeds", "8", "--stop-when-decided") == 0
    assert "nothing is left to train" in capsys.readouterr().out


def test_a_study_without_a_list_of_values_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder, "ablation:\n  use_ablate: true\n")
    assert call(monkeypatch, "study", "config.yml") == 2
    assert "No setting has several values" in capsys.readouterr().err


def test_a_run_waits_for_the_one_ahead_in_the_queue(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = queue(folder / "experiments", steps=20, step_seconds=0.02)
    write_config(folder)
    assert call(monkeypatch, "run", "config.yml") == 0
    assert "waiting: 1 run ahead in the queue" in capsys.readouterr().out
    assert read_run_status(other).state == "finished"


def test_a_paused_run_is_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = queue(folder / "experiments", steps=60, step_seconds=0.02, save_every=1)
    own = Supervisor(run.save_dir, launcher=LocalLauncher(fake_command))
    wait_for(run, lambda status: status.state == "running" and status.step >= 2, own)
    assert call(monkeypatch, "pause", run.id) == 0
    assert f"resume {run.id}" in capsys.readouterr().out
    wait_for(run, lambda status: status.state == "paused", own)
    assert call(monkeypatch, "pause", run.id) == 1
    assert "not running" in capsys.readouterr().err
    assert call(monkeypatch, "resume", run.id) == 0
    assert (read_run_status(run).state, read_run_status(run).attempt) == ("finished", 2)
    assert call(monkeypatch, "resume", run.id) == 1
    assert "Continue it for more epochs" in capsys.readouterr().err


def test_presets_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "presets") == 0
    out = capsys.readouterr().out
    assert len(load_presets()) >= 3
    for preset in load_presets():
        assert preset.title in out
        assert preset.path.name in out


SCRIPT = """
import functools, sys
from tests.fakes.run_fixtures import FAKE
from toolkit.cli import main as cli
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.supervisor import Supervisor
script = sys.argv.pop()
def slow(run, config):
    (run.path / "fake.json").write_text(script)
    return [sys.executable, str(FAKE), run.id]
cli.Supervisor = functools.partial(Supervisor, launcher=LocalLauncher(slow), poll_seconds=0.02)
cli.kill_run = functools.partial(cli.kill_run, grace_seconds=0.5)
cli.main()
"""


@pytest.mark.worker  # starts whole programs
@pytest.mark.parametrize(("deaf", "presses"), [("false", 1), ("true", 2)])
def test_ctrl_c_stops_and_a_second_one_kills(folder: Path, deaf: str, presses: int) -> None:
    write_config(folder)
    fake = f'{{"steps": 2000, "step_seconds": 0.01, "deaf": {deaf}}}'
    argv = [sys.executable, "-c", SCRIPT, "run", "config.yml", fake]
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 120
        while not list_runs(folder / "experiments"):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (run,) = list_runs(folder / "experiments")
        wait_for(run, lambda status: status.step >= 1)
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            while not run.stop_path.exists() and process.poll() is None:  # until the first one has arrived
                time.sleep(0.02)
        said = process.communicate(timeout=120)[0].decode()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert read_run_status(run).state == "stopped"
    assert "Stopped after" in said
    assert "Traceback" not in said
