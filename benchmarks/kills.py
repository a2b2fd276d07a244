"""How many runs survive random `kill -9`s of their worker, and whether they end as if nothing had happened.

    python -m benchmarks.kills [--kills 1000] [--seed 1] [--slots 1] [--minutes 60] [--json FILE]

A small run of a tiny random model (LoRA with dropout, two accumulated batches a step, evaluations, a checkpoint every
first to third step) is trained once without any trouble. Then it is trained again and again under the real supervisor,
while its worker is killed up to twelve times a run: one kill in ten at any moment of the first second, the others at a
moment drawn uniformly from the second and a half after training has begun. Counted: runs finished, weights and curves
identical to the bit, and human actions: where two attempts in a row ended before a new checkpoint, a run stands still
by design, and is resumed as a person would, by one press of Resume.
With --slots so many runs train side by side, each with kills of its own, and no two may hold the same slot.
The workers are forks of a process that has imported the libraries: an attempt takes a second instead of ten.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from tests.conftest import make_tiny_model
from tests.fakes.fork_server import fork_server
from tests.fakes.training import draft, events_of, make_run
from toolkit.lifecycle.launcher import LocalLauncher
from toolkit.lifecycle.resume_policy import request_resume
from toolkit.lifecycle.slots import recorded_slots
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.runs.events import collect_series
from toolkit.runs.run_dir import RunDir
from toolkit.runs.slots import save_slot_count
from toolkit.runs.status import RunStatus, read_run_status
from toolkit.system.locks import is_lock_held, read_lock_holder

CURVES = ("loss", "grad_norm", "learning_rate", "tokens", "epoch", "eval_loss")
MOST_A_RUN = 12
EARLY, EARLY_SECONDS, TRAINING_SECONDS = 0.1, 1.0, 1.5


@dataclass
class Score:
    """What came of it.

    wrong: the runs that did not end as the undisturbed one, with what differs. most_beside: runs that trained at
    the same time; shared_slots: looks at which two of them had the same slot.
    """

    kills: int = 0
    runs: int = 0
    finished: int = 0
    same_weights: int = 0
    same_curves: int = 0
    human_actions: int = 0
    verified_steps: int = 0
    attempts: int = 0
    most_beside: int = 0
    shared_slots: int = 0
    in_phase: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def perfect(self) -> bool:
        as_one = self.runs == self.finished == self.same_weights == self.same_curves
        return as_one and not self.wrong and self.shared_slots == 0


def settings(save_dir: Path, model: Path, steps_between: int = 2) -> dict[str, Any]:
    """A run of 24 steps in six epochs."""
    found = draft(
        save_dir, model, num_train_epochs=6, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        save_steps=steps_between, eval_steps=5, logging_steps=1,
    )  # fmt: skip
    found["lora"]["lora_dropout"] = 0.1
    found["data"]["test_size"] = 3
    found["inference"] = {"max_new_tokens": 4}
    found["training"]["pinned_rows"] = 0
    return found


def fingerprint(run: RunDir) -> tuple[bytes, dict[str, Any]]:
    weights = (run.adapter_dir / "adapter_model.safetensors").read_bytes()
    return weights, {name: points for name, points in collect_series(events_of(run)).items() if name in CURVES}


class Killer:
    """Kills the run's worker at a random moment of each attempt, `budget` times, then leaves it alone."""

    def __init__(self, run: RunDir, budget: int, chance: random.Random, score: Score) -> None:
        self._run, self._budget, self._chance, self._score = run, budget, chance, score
        self._attempt = 0
        self._early = False
        self._at: float | None = None

    def __call__(self, status: RunStatus) -> None:
        """Called at every look of the supervisor's loop."""
        if self._budget <= 0 or status.explained or not is_lock_held(self._run.lock_path):
            return
        holder = read_lock_holder(self._run.lock_path)
        if holder is None:
            return
        if holder.attempt != self._attempt:
            self._attempt, self._early, self._at = holder.attempt, self._chance.random() < EARLY, None
        if self._at is None and (self._early or status.phase == "training"):
            self._at = time.monotonic() + self._chance.uniform(0, EARLY_SECONDS if self._early else TRAINING_SECONDS)
        if self._at is not None and time.monotonic() >= self._at:
            self._kill(holder.pid, status.phase or "starting")

    def _kill(self, pid: int, phase: str) -> None:
        self._at = float("inf")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self._budget -= 1
            self._score.kills += 1
            self._score.in_phase[phase] = self._score.in_phase.get(phase, 0) + 1


def campaign(place: Path, kills: int, seed: int, seconds: float = 3600, say=lambda text: None, slots: int = 1) -> Score:
    """Kill until there were so many or the time is up; every run is brought to its end and compared."""
    score, chance, until = Score(), random.Random(seed), time.monotonic() + seconds
    model = make_tiny_model(place / "model", chat=True)
    with fork_server(place) as worker:
        supervisor = Supervisor(
            place / "save", launcher=LocalLauncher(lambda run, config: [*worker, run.id]), poll_seconds=0.02
        )
        reference = make_run(settings(place / "save", model))
        assert supervisor.run_to_end(reference, lambda status: None).state == "finished", read_run_status(reference)
        expected = fingerprint(reference)
        if slots > 1:
            save_slot_count(place / "save", slots)
        while score.kills < kills and time.monotonic() < until:
            runs = [make_run(settings(place / "save", model, chance.choice([1, 2, 3]))) for _ in range(slots)]
            # one run is killed at most so often; those beside it share what is left
            most = max(1, (kills - score.kills) // slots)
            killers = [Killer(run, min(chance.randint(6, MOST_A_RUN), most), chance, score) for run in runs]
            run_together(supervisor, runs, killers, score)
            for run in runs:
                judge(run, read_run_status(run), expected, score)
            done = f"{score.kills} kills, {score.runs} runs, {score.finished} finished"
            say(f"{done}, {score.human_actions} resumed by hand")
        supervisor.stop()
    return score


def run_together(supervisor: Supervisor, runs: list[RunDir], killers: list[Killer], score: Score) -> None:
    """Train these runs to their ends under their killers; resume by hand what stands still by design."""

    def look(status: RunStatus) -> None:
        for run, killer in zip(runs, killers, strict=True):
            killer(read_run_status(run))
        held = [tuple(recorded_slots(run)) for run in runs if is_lock_held(run.lock_path)]
        score.most_beside = max(score.most_beside, len(held))
        score.shared_slots += len(held) - len({number for numbers in held for number in numbers})

    for run in runs:
        status = supervisor.run_to_end(run, look)
        while status.state in ("failed", "interrupted") and "in a row" in status.message:
            score.human_actions += 1
            request_resume(run)
            status = supervisor.run_to_end(run, look)


def judge(run: RunDir, status: RunStatus, expected: tuple[bytes, Any], score: Score) -> None:
    """Count a run that has ended, and compare it with the undisturbed one."""
    score.runs += 1
    score.attempts += status.attempt
    score.verified_steps += sum(event["steps"] for event in events_of(run, "verified"))
    if status.state != "finished":
        score.wrong.append(f"{run.id}: {status.state}: {status.message}")
        return
    score.finished += 1
    weights, curves = fingerprint(run)
    score.same_weights += weights == expected[0]
    score.same_curves += curves == expected[1]
    if (weights, curves) != expected:
        ends = [(event["reason"], event.get("micro_batch")) for event in events_of(run, "interrupted")]
        same = f"weights {weights == expected[0]}, curves {curves == expected[1]}"
        score.wrong.append(f"{run.id}: {same}, attempts ended by {ends}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="begin no further run after so long")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FTK_STATE_DIR"] = str(Path(folder) / "state")
        began = time.monotonic()
        score = campaign(
            Path(folder),
            chosen.kills,
            chosen.seed,
            60 * chosen.minutes,
            say=lambda text: print(text, flush=True),
            slots=chosen.slots,
        )
        seconds = round(time.monotonic() - began)
        found = {**asdict(score), "seed": chosen.seed, "slots": chosen.slots, "seconds": seconds}
    print(json.dumps(found, indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if score.perfect else 1)


if __name__ == "__main__":
    main()
