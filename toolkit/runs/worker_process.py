"""How a training worker is started: its command, its environment, and the file that `accelerate launch` reads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from toolkit.config import Config
from toolkit.runs.event_facts import read_event_facts
from toolkit.runs.run_dir import RunDir
from toolkit.runs.slots import WHOLE_MACHINE, SlotShare
from toolkit.settings.model_source import model_kind
from toolkit.system.durable import durable_write
from toolkit.system.locks import LockHolder, boot_id
from toolkit.system.machine import Machine, probe_machine, usable_cores
from toolkit.system.spawn import library_environment, start_detached_process

CPU_PROCESSES = 2
"""Processes on a machine without a GPU when `num_processes` is not set."""


def process_count(config: Config, machine: Machine | None) -> int:
    """Return the number of training processes: `num_processes`, or one per GPU, or two on a CPU."""
    if config.num_processes is not None:
        return config.num_processes
    return len(machine.gpus) if machine is not None and machine.gpus else CPU_PROCESSES


def machine_count(config: Config) -> int:
    """Return how many machines train the run together."""
    return (config.num_machines or 1) if config.accelerate else 1


def team_size(config: Config, machine: Machine | None) -> int:
    """Return how many processes train the run on all machines together."""
    # the same number on each machine: accelerate divides the sum by the machines
    return process_count(config, machine) * machine_count(config) if config.accelerate else 1


def accelerate_settings(config: Config, machine: Machine) -> dict[str, Any]:
    """Return the fields of accelerate's ClusterConfig, by which its launcher starts the processes."""
    count, machines = team_size(config, machine), machine_count(config)
    on_cpu = not machine.cuda or config.model.device_map == "cpu"
    args = config.training.training_args
    return {
        "compute_environment": "LOCAL_MACHINE",
        "debug": False,
        # on CPUs as well, together with use_cpu: with MULTI_CPU, accelerate 1.15 silently starts only one process
        "distributed_type": "MULTI_GPU" if count > 1 else "NO",
        "downcast_bf16": False,
        "enable_cpu_affinity": False,
        "machine_rank": (config.machine_rank or 0) if machines > 1 else 0,
        **({"main_process_ip": config.main_process_ip} if machines > 1 else {}),
        # 0 is any free port: another launcher may use the fixed default
        "main_process_port": config.main_process_port if machines > 1 else 0,
        "main_training_function": "main",
        "mixed_precision": "bf16" if args.bf16 else "fp16" if args.fp16 and not on_cpu else "no",
        "num_machines": machines,
        "num_processes": count,
        "rdzv_backend": "static",
        "same_network": True,
        "tpu_use_cluster": False,
        "tpu_use_sudo": False,
        "use_cpu": on_cpu,
    }


def accelerate_yaml(config: Config, machine: Machine) -> str:
    """Return the launcher's file as `worker/process/launch.py` has ClusterConfig write it; a test compares the two."""
    return yaml.safe_dump(accelerate_settings(config, machine))


CommandBuilder = Callable[[RunDir, Config], list[str]]
"""(run, its config) -> argument list of its worker."""

TRAINING_MODULE, LAUNCH_OPTION = "toolkit.worker.train", "--launch"


def worker_command(run: RunDir, config: Config, probed: Path | None = None) -> list[str]:
    """Return the argument list of the worker, or of the launcher of several, whose settings it writes into the run.

    probed: the folder that keeps what is known of this machine, if it is not the run's save_dir. Raises RunError when
    the probe of this machine fails.
    """
    if not config.accelerate:
        return [sys.executable, "-m", TRAINING_MODULE, run.id]
    durable_write(run.accelerate_path, accelerate_yaml(config, probe_machine(probed or run.save_dir)))
    return [sys.executable, "-m", TRAINING_MODULE, run.id, LAUNCH_OPTION]


def worker_environment(run: RunDir, config: Config, attempt: int, share: SlotShare = WHOLE_MACHINE) -> dict[str, str]:
    """Return the environment of a worker: that of this process, offline unless the model comes from the hub.

    share: the slots of a run that trains beside others.
    """
    processes = process_count(config, None) if config.accelerate else 1
    hub = model_kind(config) == "hub"
    libraries = library_environment(hub=hub, processes=share.processes_on_machine(processes))
    threads = earlier_threads(run) if attempt > 1 else None
    # bit-identical resume needs the same number, even if the number of slots has changed since
    kept = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return {**libraries, **kept, **share.environment(), "FTK_SAVE_DIR": str(run.save_dir), "FTK_ATTEMPT": str(attempt)}


def earlier_threads(run: RunDir, most: int | None = None) -> int | None:
    """Return the threads that the run has trained with so far: with another number a sum may differ in its last bit.

    most: None takes the cores of this machine. Beyond it, the number can't be kept.
    """
    threads = read_event_facts(run.events_path).plan.get("threads")
    return threads if isinstance(threads, int) and 1 <= threads <= (most or usable_cores()) else None


def spawn_training_worker(
    run: RunDir, argv: list[str], environment: dict[str, str], slots: Sequence[int]
) -> tuple[subprocess.Popen[bytes], LockHolder]:
    """Start a worker in its own session; return the process and its description. Raises OSError.

    slots: descriptors of the locked slot files. The worker inherits them, so they stay locked until it ends.
    """
    with run.log_path.open("ab") as log:
        process = start_detached_process(argv, environment, log, pass_fds=slots)
    try:
        began = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        began = 0.0  # it has ended already: nobody is to signal its pid, and its exit code says how
    attempt = int(environment["FTK_ATTEMPT"])
    return process, LockHolder(process.pid, began, attempt, boot_id(), run.id)
