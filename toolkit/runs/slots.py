"""Slots: how many runs of a save_dir train at the same time, and what share of the machine each of them gets.

A slot is a lock file. The first one is `runs/slot.lock`, which is all there is while one run trains at a time; the
others are `runs/.slots/slot-1.lock` and so on. On a machine with GPUs a slot is a GPU; on a CPU they share the cores.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from toolkit.cluster.setting import MAX_CLUSTER_SLOTS, read_cluster, save_cluster_slots
from toolkit.config import Config
from toolkit.errors import RunError
from toolkit.system.durable import durable_write
from toolkit.system.foreign_files import read_foreign_json
from toolkit.system.machine import Machine, read_known_machine, training_cores
from toolkit.system.printable import format_plural

SLOTS_SCHEMA = 1
MAX_SLOTS = 64
_SLOT_FILE = re.compile(r"slot-(\d{1,3})\.lock")


@dataclass(frozen=True)
class SlotShare:
    """The slots of one run. numbers: which of the `total` slots. gpus: numbers of the GPUs that they stand for."""

    numbers: tuple[int, ...] = (0,)
    total: int = 1
    gpus: tuple[int, ...] = ()

    def processes_on_machine(self, processes: int) -> int:
        """Return how many processes share the cores if every run has as many of them for each slot."""
        return -(-processes * self.total // len(self.numbers))

    def environment(self) -> dict[str, str]:
        """Return the variables that tell a worker its share; none while one run trains at a time."""
        if self.total == 1:
            return {}
        slots = {"FTK_SLOTS": ",".join(map(str, self.numbers))}
        if not self.gpus:
            return slots
        # the numbers count among the GPUs that this process may see, as those of device_map do
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        names = visible.split(",") if visible else [str(number) for number in range(max(self.gpus) + 1)]
        chosen = [names[number] for number in self.gpus if number < len(names)]
        return {**slots, "CUDA_VISIBLE_DEVICES": ",".join(chosen)} if chosen else slots


WHOLE_MACHINE = SlotShare()


def slot_path(save_dir: Path, number: int) -> Path:
    """Return the lock file of a slot, the first of which is number 0."""
    runs = save_dir / "runs"
    return runs / "slot.lock" if number == 0 else _slots_folder(save_dir) / f"slot-{number}.lock"


def list_slot_paths(save_dir: Path) -> list[Path]:
    """Return the lock files that may be held, the first slot's first; also those of a time with more slots."""
    try:
        names = [path.name for path in _slots_folder(save_dir).iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        names = []
    more = sorted(int(found[1]) for found in map(_SLOT_FILE.fullmatch, names) if found)
    return [slot_path(save_dir, number) for number in (0, *more)]


def slots_lock_path(save_dir: Path) -> Path:
    """Return the lock that a process holds while it gives a run its slots; not used with one slot."""
    return _slots_folder(save_dir) / "lock"


def most_slots(machine: Machine | None) -> int:
    """Return how many runs may train at the same time at most: one for each GPU, or for each core."""
    if machine is not None and machine.gpus:
        return min(len(machine.gpus), MAX_SLOTS)
    return min(training_cores(), MAX_SLOTS)


def slot_limit(save_dir: Path, machine: Machine | None) -> int:
    """Return how many runs a user may let train at the same time, on this machine or on the folder's cluster."""
    return most_slots(machine) if read_cluster(save_dir) is None else MAX_CLUSTER_SLOTS


def count_slots(save_dir: Path, machine: Machine | None = None) -> int:
    """Return how many runs may train at the same time: what the user has set, else one for each GPU, else one.

    machine: None takes what is known of this one. On a cluster the number is part of its setting.
    """
    if (cluster := read_cluster(save_dir)) is not None:
        return cluster.slots
    wanted = _read_wanted_slots(save_dir)
    if wanted == 1:
        return 1
    # while the machine is not known yet, one run trains: a second one could get the same GPU
    machine = machine or read_known_machine(save_dir)
    if wanted is not None:
        return max(1, min(wanted, most_slots(machine)))
    return most_slots(machine) if machine is not None and machine.gpus else 1


def save_slot_count(save_dir: Path, count: int) -> None:
    """Let `count` runs train at the same time, from the next start of a run on. Raises RunError."""
    if (cluster := read_cluster(save_dir)) is not None:
        save_cluster_slots(save_dir, cluster, count)
        return
    machine = read_known_machine(save_dir)
    most = most_slots(machine)
    if not 1 <= count <= most:
        there_are = format_plural(most, "GPU" if machine is not None and machine.gpus else "core")
        raise RunError(
            f"{count} runs at the same time are not possible: this machine has {there_are} for training.",
            f"Choose a number from 1 to {most}." if most > 1 else "Leave it at 1.",
        )
    try:
        (save_dir / "runs").mkdir(parents=True, exist_ok=True)
        durable_write(_setting_path(save_dir), json.dumps({"schema": SLOTS_SCHEMA, "slots": count}))
    except OSError as error:
        raise RunError(
            f"The number of runs at the same time can't be saved: {error}.", "Free space in the output folder."
        ) from error


def describe_share(share: SlotShare, machine: Machine | None) -> str:
    """Return "GPU 1 (NVIDIA H200)" or "slot 2 of 4"; "" while one run trains at a time."""
    if share.total == 1:
        return ""
    if share.gpus and machine is not None:
        named = [f"{number} ({machine.gpus[number].name})" for number in share.gpus if number < len(machine.gpus)]
        return f"GPU {' and '.join(named)}" if len(named) < 3 else f"GPUs {', '.join(map(str, share.gpus))}"
    numbers = " and ".join(str(number + 1) for number in share.numbers)
    return f"slot{'s' * (len(share.numbers) > 1)} {numbers} of {share.total}"


def slot_gpus(numbers: tuple[int, ...], config: Config, machine: Machine | None) -> tuple[int, ...]:
    """Return the GPUs that a run on these slots is limited to; none where it chooses by itself, as today."""
    chooses = config.model.device_map == "cpu" or (config.model.device_map or "").startswith("cuda:")
    # the worker itself follows a device_map with a number, which counts among all GPUs
    return () if machine is None or not machine.gpus or chooses else numbers


def _slots_folder(save_dir: Path) -> Path:
    return save_dir / "runs" / ".slots"


def _setting_path(save_dir: Path) -> Path:
    return save_dir / "runs" / "slots.json"


def _read_wanted_slots(save_dir: Path) -> int | None:
    """Return the number that the user has set; None when there is none, or when it can't be read."""
    try:
        body = read_foreign_json(_setting_path(save_dir))
        wanted = body["slots"] if body["schema"] == SLOTS_SCHEMA else None
        return wanted if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted >= 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
