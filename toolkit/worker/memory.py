"""What this process uses at this moment: measured, or left out."""

from __future__ import annotations

import psutil
import torch


def readings() -> dict[str, int]:
    """memory_bytes: resident set of this process. gpu_memory_bytes: reserved by torch on all GPUs, if it uses any."""
    found = {"memory_bytes": psutil.Process().memory_info().rss}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        used = sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))
        found["gpu_memory_bytes"] = used
    return found
