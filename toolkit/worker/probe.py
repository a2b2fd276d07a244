"""python -m toolkit.worker.probe: print one JSON line about this machine's hardware and libraries."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from toolkit.system.private_files import restrict_new_files

PROBED_LIBRARIES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "flash_attn",
    "liger_kernel",
)
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
"""CPU flags of instructions that multiply bf16 numbers. Without them bf16 is converted to fp32 and back: slow."""


def detect_hardware() -> dict[str, Any]:
    """Return what the machine has and supports.

    cpu_count: cores that this process may use. memory_bytes: total. gpus: name, memory_bytes, capability and uuid of
    each.
    bf16_gpu, bf16_cpu, tf32: whether the hardware computes it. bitsandbytes: whether it is installed. versions: of the
    libraries.
    """
    cuda = torch.cuda.is_available()
    gpus = [_gpu(index) for index in range(torch.cuda.device_count())] if cuda else []
    return {
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "memory_bytes": psutil.virtual_memory().total,
        "cuda": cuda,
        "gpus": gpus,
        "bf16_gpu": cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        "tf32": cuda and all(gpu["capability"] >= [8, 0] for gpu in gpus),
        "bf16_cpu": any(flag in processor_flags() for flag in BF16_FLAGS),
        "bitsandbytes": importlib.util.find_spec("bitsandbytes") is not None,
        "versions": read_installed_versions(),
    }


def processor_flags() -> set[str]:
    """Return the CPU's feature flags from /proc/cpuinfo, or an empty set on systems without this file."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def read_installed_versions() -> dict[str, str]:
    """Return library -> version, without libraries that are not installed."""
    versions = {"python": sys.version.split()[0]}
    for name in PROBED_LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    capability = [properties.major, properties.minor]
    found = {"name": properties.name, "memory_bytes": properties.total_memory, "capability": capability}
    return {**found, "uuid": str(getattr(properties, "uuid", ""))}  # torch for ROCm may have none


def main() -> int:
    sys.stdout.write(json.dumps(detect_hardware()) + "\n")
    return 0


if __name__ == "__main__":
    restrict_new_files()
    raise SystemExit(main())
