"""Whether there is memory to start a run beside those that train: of the CPU, or of the GPUs that it would get.

Counts what is loaded already, whoever loaded it (another run, the Playground, another program), and, on a CPU, what the
runs that have just been started will still take: there they share the memory, while each GPU trains one run. A run
without a forecast is not held back, and a run that would be the only one never is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import psutil

from toolkit.cluster.setting import read_cluster
from toolkit.config import Config
from toolkit.errors import ToolkitError
from toolkit.lifecycle.gpu_memory import read_free_gpu_memory
from toolkit.runs.run_dir import RunDir, find_run_holder, read_run_config, read_run_meta
from toolkit.runs.worker_process import process_count
from toolkit.system.locks import list_holder_processes
from toolkit.system.machine import Machine, free_memory_bytes, read_known_machine


@dataclass(frozen=True)
class MemoryShortage:
    """Bytes that a run needs, and those that are free for it. gpu: the number of the GPU; None on a CPU."""

    needed: int
    free: int
    gpu: int | None = None


def find_memory_shortage(run: RunDir, beside: Sequence[str], slots: Sequence[int]) -> MemoryShortage | None:
    """Return why the run can't start in these slots beside these runs (their ids) yet; None when it can."""
    machine = read_known_machine(run.save_dir)
    needed = forecast_bytes(run)
    if not beside or not needed or read_cluster(run.save_dir) is not None:
        return None
    if machine is not None and machine.gpus:
        return _find_gpu_shortage(run, machine, slots)
    others = [RunDir(run.path.parent / name) for name in sorted(set(beside))]
    free = free_memory_bytes() - sum(max(0, forecast_bytes(other) - _resident_bytes(other)) for other in others)
    return MemoryShortage(needed, max(0, free)) if needed > free else None


def put_free_gpus_first(run: RunDir, machine: Machine, count: int, slots: Sequence[int]) -> list[int]:
    """Return the numbers of free slots, first those whose GPU has room for the run, which takes so many of them."""
    needed = _bytes_on_each_gpu(run, count)
    free = read_free_gpu_memory(machine) if needed else {}
    return sorted(slots, key=lambda number: free.get(number, needed) < needed)


def _bytes_on_each_gpu(run: RunDir, gpus: int) -> int:
    needed = forecast_bytes(run)
    if not needed or (config := read_config_once(run)).model.device_map == "cpu":
        return 0
    return needed // (process_count(config, None) if config.accelerate else gpus)


def _find_gpu_shortage(run: RunDir, machine: Machine, slots: Sequence[int]) -> MemoryShortage | None:
    needed, free = _bytes_on_each_gpu(run, len(slots)), read_free_gpu_memory(machine)
    least = min(slots, key=lambda number: free.get(number, needed))
    return MemoryShortage(needed, free[least], least) if free.get(least, needed) < needed else None


def read_config_once(run: RunDir) -> Config:
    """Return the run's settings without parsing them again: they never change. Raises as `read_run_config` does."""
    try:
        written = run.config_path.stat().st_mtime_ns
    except OSError:
        return read_run_config(run)  # raises the error that describes this
    return _read_config(run, written)


@lru_cache(maxsize=128)
def _read_config(run: RunDir, written: int) -> Config:
    del written  # part of the key: settings that a person has corrected are read again
    return read_run_config(run)


def forecast_bytes(run: RunDir) -> int:
    """Return the memory that the run was forecast to take with all its processes; 0 without a forecast."""
    try:
        each, config = int(read_run_meta(run).get("memory_bytes") or 0), read_config_once(run)
    except (ToolkitError, OSError):
        return 0
    return each * (process_count(config, None) if config.accelerate else 1)


def _resident_bytes(run: RunDir) -> int:
    holder = find_run_holder(run)
    return sum(map(_process_bytes, list_holder_processes(holder))) if holder is not None else 0


def _process_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0  # it has ended: what it held is free again
