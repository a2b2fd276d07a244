"""The file that `accelerate launch` reads, made from a config and a machine."""

from __future__ import annotations

from typing import Any

import yaml

from toolkit.config import Config
from toolkit.runs.machine import Machine

CPU_PROCESSES = 2


def process_count(config: Config, machine: Machine | None) -> int:
    """How many processes train: `num_processes`, else one a GPU, else two on a CPU."""
    if config.num_processes is not None:
        return config.num_processes
    return len(machine.gpus) if machine is not None and machine.gpus else CPU_PROCESSES


def accelerate_yaml(config: Config, machine: Machine) -> str:
    """The launcher's file. On CPUs it says MULTI_GPU beside use_cpu: with MULTI_CPU accelerate 1.15 starts one
    process, without a word."""
    count = process_count(config, machine)
    on_cpu = not machine.cuda or config.model.device_map == "cpu"
    args = config.training.training_args
    settings: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if count > 1 else "NO",
        "use_cpu": on_cpu,
        "num_machines": 1,
        "num_processes": count,
        "machine_rank": 0,
        "mixed_precision": "bf16" if args.bf16 else "fp16" if args.fp16 and not on_cpu else "no",
        "main_training_function": "main",
        "main_process_port": 0,  # any free one: the fixed default may be another launcher's
        "rdzv_backend": "static",
        "same_network": True,
    }
    return yaml.safe_dump(settings, sort_keys=False)
