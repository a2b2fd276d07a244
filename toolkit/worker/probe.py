"""python -m toolkit.worker.probe: one JSON line about this machine's hardware and libraries, for system/machine.py."""

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

PROBED_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "flash_attn",
             "liger_kernel")  # fmt: skip
BF16_FLAGS = ("avx512_bf16", "amx_bf16")
"""Instructions that multiply bf16 numbers; without one the products are converted back and forth."""


def detect_hardware() -> dict[str, Any]:
    """cpu_count (usable by this process), memory_bytes, gpus with their capability, what they support, versions."""
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
    """What the kernel says that the processor can; nothing on systems without such a file."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def read_installed_versions() -> dict[str, str]:
    """Library -> installed version; a library that is not installed is left out."""
    found = {"python": sys.version.split()[0]}
    for name in PROBED_LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    capability = [properties.major, properties.minor]
    return {"name": properties.name, "memory_bytes": properties.total_memory, "capability": capability}


def main() -> int:
    sys.stdout.write(json.dumps(detect_hardware()) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
