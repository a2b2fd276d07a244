"""What this process uses at this moment, and the most it has used: measured, or left out."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")


def read_process_memory() -> dict[str, int]:
    """memory_bytes: resident set of this process; peak_bytes: its largest so far, where the system keeps it.

    gpu_memory_bytes, gpu_peak_bytes: reserved by torch on all GPUs, if it uses any.
    """
    found = {"memory_bytes": psutil.Process().memory_info().rss, **_peak_memory()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        cards = range(torch.cuda.device_count())
        found["gpu_memory_bytes"] = sum(torch.cuda.memory_reserved(card) for card in cards)
        found["gpu_peak_bytes"] = sum(torch.cuda.max_memory_reserved(card) for card in cards)
    return found


def _peak_memory() -> dict[str, int]:
    # not getrusage: its maximum may be that of the process that started this one
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return {}
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return {"peak_bytes": found[0]} if found else {}
