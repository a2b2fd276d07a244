"""Memory that this process uses now, and the most that it has used. A figure that can't be measured is left out."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

_STATUS = Path("/proc/self/status")


def read_process_memory() -> dict[str, int]:
    """Return the memory of this process in bytes, under the names of the fields of a `log` event.

    memory_bytes: resident set; peak_bytes: its maximum, where the system records it. gpu_memory_bytes and
    gpu_peak_bytes: reserved by torch on all GPUs, if it uses any.
    """
    usage = {"memory_bytes": psutil.Process().memory_info().rss, **_peak_memory()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        gpus = range(torch.cuda.device_count())
        usage["gpu_memory_bytes"] = sum(torch.cuda.memory_reserved(gpu) for gpu in gpus)
        usage["gpu_peak_bytes"] = sum(torch.cuda.max_memory_reserved(gpu) for gpu in gpus)
    return usage


def _peak_memory() -> dict[str, int]:
    # not getrusage: after fork and exec its maximum may be that of the parent process
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return {}
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return {"peak_bytes": peaks[0]} if peaks else {}
