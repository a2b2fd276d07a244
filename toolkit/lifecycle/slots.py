"""Giving slots to runs: which free slots the next run gets, how they are held, and what a queued run waits for.

The locks decide, whatever this module believes: a slot is free when its lock can be taken. With several slots a process
gives them out while it holds one more lock, so that of many supervisors none takes a slot that another one needs for a
run with several; with one slot there is no such lock, as in earlier versions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from toolkit.cluster.resources import SPREADING_DEVICE_MAPS
from toolkit.cluster.setting import read_cluster
from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.lifecycle.claims import read_claim
from toolkit.lifecycle.slot_memory import find_memory_shortage, forecast_bytes, put_free_gpus_first, read_config_once
from toolkit.runs.run_dir import RunDir
from toolkit.runs.slots import (
    WHOLE_MACHINE,
    SlotShare,
    count_slots,
    list_slot_paths,
    slot_gpus,
    slot_path,
    slots_lock_path,
)
from toolkit.runs.status import read_run_status
from toolkit.runs.worker_process import process_count
from toolkit.system.locks import LockHolder, hold_lock, is_lock_held, read_lock_holder, try_lock, write_lock_holder
from toolkit.system.machine import Machine, read_known_machine
from toolkit.system.printable import format_bytes, format_plural

USABLE_GPU_SHARE = 0.95
"""Share of a GPU's memory that a run can use; with a forecast beyond it, auto spreads the model over more GPUs."""


@dataclass(frozen=True)
class SlotDemand:
    """What a run needs: so many slots of any number, or the one with this number."""

    count: int = 1
    pinned: int | None = None

    def choose(self, free: list[int]) -> tuple[int, ...]:
        """Return the slots to take of those that are free; () while they are not enough."""
        if self.pinned is not None:
            return (self.pinned,) if self.pinned in free else ()
        return tuple(free[: self.count]) if self.count <= len(free) else ()


@dataclass(frozen=True)
class HeldSlots:
    """Slots that this process holds for a run. handles: the descriptors of their lock files."""

    handles: tuple[int, ...]
    share: SlotShare = WHOLE_MACHINE

    def write_holder(self, holder: LockHolder) -> None:
        """Write into the lock files whom the slots are held for."""
        for handle in self.handles:
            write_lock_holder(handle, holder)

    def close(self) -> None:
        """Close this process's descriptors; a worker that inherited them keeps the slots."""
        for handle in self.handles:
            os.close(handle)


@dataclass(frozen=True)
class SlotTable:
    """The slots of a save_dir at one moment. free: the numbers of those that no process holds.

    on_cluster: a slot is the right to ask a cluster for what one run needs, whatever that is.
    """

    save_dir: Path
    total: int
    free: list[int]
    machine: Machine | None = None
    on_cluster: bool = False

    def demand_of(self, run: RunDir) -> SlotDemand:
        """Return what a run needs of these slots."""
        if self.total == 1 or self.on_cluster:
            return SlotDemand()
        try:
            return find_slot_demand(read_config_once(run), self.machine, self.total, forecast_bytes(run))
        except ToolkitError:
            return SlotDemand()  # the launch fails with this error and records it

    def choose_slots(self, run: RunDir, demand: SlotDemand) -> tuple[int, ...]:
        """Return the free slots for a run, of the GPUs first those that have room for it; () while too few are free."""
        free = self.free
        if self.machine is not None and self.machine.gpus and len(free) > demand.count and demand.pinned is None:
            free = put_free_gpus_first(run, self.machine, demand.count, free)
        return tuple(sorted(demand.choose(free)))

    def keep_place(self, run: RunDir) -> None:
        """Take from the free slots what a run will need again that has just died, or that lives without its slot."""
        for number in recorded_slots(run):
            # a slot that is held is either its own or already given to another run, and takes none of the free ones
            if not is_lock_held(slot_path(self.save_dir, number)) and self.free:
                self.free.remove(number if number in self.free else self.free[0])

    def hold(self, run: RunDir, numbers: tuple[int, ...]) -> HeldSlots | None:
        """Take these slots; None when another process was faster with one of them. Raises OSError."""
        share = self._share_of(run, numbers)
        with ExitStack() as taken:
            handles: list[int] = []
            for number in numbers:
                handle = try_lock(_make_slot_path(self.save_dir, number))
                if handle is None:
                    return None
                taken.callback(os.close, handle)
                handles.append(handle)
            taken.pop_all()  # all or none: a run that kept one of two slots would block another that does the same
        return HeldSlots(tuple(handles), share)

    def _share_of(self, run: RunDir, numbers: tuple[int, ...]) -> SlotShare:
        share = SlotShare(numbers, self.total)
        try:
            config = read_config_once(run)
            # more processes than there are slots: it holds all of them, and uses every GPU
            if config.accelerate and process_count(config, self.machine) > len(numbers) == self.total:
                return share
            return replace(share, gpus=slot_gpus(numbers, config, self.machine))
        except ToolkitError:
            return share  # as above


def read_slot_table(save_dir: Path) -> SlotTable:
    """Look which slots are free. After the number of slots was lowered, runs beyond it count until they end."""
    total = count_slots(save_dir)
    # more than `total` may be held; which of them are free is only a hint, because the next moment may change it
    held = [path for path in list_slot_paths(save_dir) if is_lock_held(path)]
    free = [number for number in range(total) if slot_path(save_dir, number) not in held]
    # with one slot a run has the whole machine, as many GPUs as there are: none is chosen for it
    on_cluster = read_cluster(save_dir) is not None
    machine = read_known_machine(save_dir) if total > 1 and not on_cluster else None
    holders = list_slot_holders(save_dir) if machine is not None and machine.gpus else []
    if any(_has_every_gpu(save_dir, holder) for _, holder in holders):
        free = []
    return SlotTable(save_dir, total, free[: max(0, total - len(held))], machine, on_cluster)


def _has_every_gpu(save_dir: Path, holder: LockHolder) -> bool:
    """Return whether a run was started without a choice of GPUs: by an earlier version, or before they were known."""
    claim = read_claim(RunDir(save_dir / "runs" / holder.run), holder.attempt)
    return claim is not None and not claim.where


@contextmanager
def hold_slot_table(table: SlotTable) -> Iterator[bool]:
    """Let no other process give out slots meanwhile; yields False when one is doing so. Nothing with one slot."""
    if table.total == 1:
        yield True
        return
    path = slots_lock_path(table.save_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(path) as alone:
        yield alone


def find_slot_demand(config: Config, machine: Machine | None, total: int, memory_bytes: int = 0) -> SlotDemand:
    """Return the slots that a run with this config needs; never more than there are. memory_bytes: its forecast."""
    gpus = len(machine.gpus) if machine is not None else 0
    wanted = config.model.device_map or ""
    if config.accelerate:
        return SlotDemand(max(1, min(process_count(config, machine), total)))
    if gpus and wanted.startswith("cuda:") and int(wanted.removeprefix("cuda:")) < total:
        return SlotDemand(1, int(wanted.removeprefix("cuda:")))
    if machine is None or not gpus or wanted in ("", "cpu"):
        return SlotDemand()
    if wanted in SPREADING_DEVICE_MAPS:
        return SlotDemand(total)
    usable = USABLE_GPU_SHARE * min(gpu.memory_bytes for gpu in machine.gpus)
    return SlotDemand(max(1, min(math.ceil(memory_bytes / usable), total)))


def recorded_slots(run: RunDir) -> tuple[int, ...]:
    """Return the slots that a run's attempt in progress, or the last one, was given; the first one if unknown."""
    # an attempt that has just been claimed may not have written its lock: the lock then describes an earlier one
    holder = read_lock_holder(run.lock_path) if is_lock_held(run.lock_path) else None
    claim = read_claim(run, holder.attempt if holder is not None else read_run_status(run).coming)
    return claim.slots if claim is not None else (0,)


def list_slot_holders(save_dir: Path) -> list[tuple[int, LockHolder]]:
    """Return the slots that are held for a run, in their order, each with what its lock file says."""
    held = []
    for path in list_slot_paths(save_dir):
        holder = read_lock_holder(path) if is_lock_held(path) else None
        if holder is not None and holder.run:
            number = 0 if path.name == "slot.lock" else int(path.stem.removeprefix("slot-"))
            held.append((number, holder))
    return held


def outlived_its_slot(run: RunDir, share: SlotShare) -> bool:
    """Return whether the run has a worker alive in one of these slots, although this process holds them."""
    if not is_lock_held(run.lock_path):
        return False
    return share.total == 1 or not set(recorded_slots(run)).isdisjoint(share.numbers)


def explain_wait(run: RunDir) -> str:
    """Return what the first queued run waits for; "" when it is about to start, or when one run trains at a time."""
    table = read_slot_table(run.save_dir)
    beside = [holder.run for _, holder in list_slot_holders(run.save_dir)]
    if table.total == 1 or not beside:
        return ""
    demand = table.demand_of(run)
    chosen = table.choose_slots(run, demand)
    if not chosen:
        if demand.pinned is not None:
            return f"waits for GPU {demand.pinned}"
        return f"waits for {_name_slots(demand.count, table)}"
    missing = find_memory_shortage(run, beside, chosen)
    if missing is None:
        return ""
    needed, free = format_bytes(missing.needed), format_bytes(missing.free)
    if missing.gpu is not None:
        return f"waits for memory of GPU {missing.gpu}: it needs {needed}, {free} is free, other programs hold the rest"
    return f"waits for memory: it needs {needed} beside the runs that train, {free} is free"


def _name_slots(count: int, table: SlotTable) -> str:
    on_gpus = table.machine is not None and bool(table.machine.gpus)
    return format_plural(count, "free GPU" if on_gpus else "free slot")


def _make_slot_path(save_dir: Path, number: int) -> Path:
    path = slot_path(save_dir, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
