"""A run that older code began, and that was killed there, is read, resumed and brought to its end by today's.

Everything goes through the command line and the files: no name inside the toolkit is used, for names move. How the run
was made is told in `tests/fixtures/run_before_the_move/README.md`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.worker

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / "tests" / "fixtures" / "run_before_the_move"
RUN = "20261129-225545-fw8q"
CHECKPOINT, LOGGED, STEPS = 12, 15, 30
"""Steps: of the newest checkpoint, the last one that was logged, all."""
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-4, 1e-3
"""Relative: another CPU adds in another order."""


@dataclass(frozen=True)
class Copy:
    """The old folder at a place of its own, with its install's key."""

    place: Path

    @property
    def run(self) -> Path:
        return self.place / "save" / "runs" / RUN

    def call(self, *words: str) -> str:
        """What `python -m toolkit ...` prints; it must end well."""
        argv = [sys.executable, "-m", "toolkit", *words, "--save-dir", str(self.place / "save")]
        environment = {
            **os.environ, "FTK_STATE_DIR": str(self.place / "state"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"
        }  # fmt: skip
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}{(self.run / 'worker.log').read_text()[-3000:]}"
        return done.stdout

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_lines(self.run / "events.jsonl") if event["kind"] == kind]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def curve(events: list[dict[str, Any]], name: str) -> dict[int, float]:
    return {event["step"]: event[name] for event in events if name in event}


def copied(place: Path) -> Copy:
    shutil.copytree(OLD, place)
    (place / "state" / "key").chmod(0o600)  # as it was made; git keeps no such mode
    return Copy(place)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = copied(tmp_path_factory.mktemp("resumed") / "copy")
    assert "Finished" in copy.call("resume", RUN)
    return copy


def test_the_list_calls_it_what_it_was(tmp_path: Path) -> None:
    copy = copied(tmp_path / "copy")
    (line,) = [line for line in copy.call("list").splitlines() if line.startswith(RUN)]
    assert line.split("  ")[1] == "before the move"
    assert line.split()[4:] == ["interrupted", f"{LOGGED}/{STEPS}", "1.6059"]
    assert {event["attempt"] for event in read_lines(copy.run / "events.jsonl")} == {1}, "looking changes nothing"


def test_it_goes_on_from_its_checkpoint_to_the_end(resumed: Copy) -> None:
    assert [(event["step"], event["replays"]) for event in resumed.events("resumed")] == [
        (CHECKPOINT, LOGGED - CHECKPOINT)
    ]
    (end,) = resumed.events("finished")
    assert (end["attempt"], end["step"]) == (2, STEPS)
    assert not [event["message"] for event in resumed.events("warning") if "refused" in event["message"]]
    assert f"{STEPS}/{STEPS}" in resumed.call("list")


def test_its_replayed_steps_are_those_of_the_old_code(resumed: Copy) -> None:
    assert [(event["attempt"], event["steps"]) for event in resumed.events("verified")] == [(2, LOGGED - CHECKPOINT)]


@pytest.mark.parametrize(("kind", "name", "points"), [("log", "loss", STEPS - CHECKPOINT), ("eval", "eval_loss", 4)])
def test_it_learns_what_an_undisturbed_run_learned(resumed: Copy, kind: str, name: str, points: int) -> None:
    found = curve([event for event in resumed.events(kind) if event["attempt"] == 2], name)
    whole = curve(read_lines(OLD / "undisturbed" / "events.jsonl"), name)
    assert len(found) == points
    assert max(found) == STEPS
    assert found == pytest.approx({step: whole[step] for step in found}, rel=LOSS_TOLERANCE)


def test_its_adapter_is_whole_and_the_undisturbed_one(resumed: Copy) -> None:
    from safetensors.torch import load_file

    adapter = resumed.run / "adapter"
    commit = json.loads((adapter / "COMMIT.json").read_text())
    assert (commit["run"], commit["step"]) == (RUN, STEPS)
    for name, sealed in commit["files"].items():
        assert hashlib.sha256((adapter / name).read_bytes()).hexdigest() == sealed["sha256"], name
    found = load_file(adapter / "adapter_model.safetensors")
    whole = load_file(OLD / "undisturbed" / "adapter_model.safetensors")
    assert found.keys() == whole.keys()
    apart = {name: ((found[name] - whole[name]).norm() / whole[name].norm()).item() for name in whole}
    assert max(apart.values()) < WEIGHT_TOLERANCE, apart
