"""How much memory of each GPU is free, whoever holds the rest: the Playground, a run of another folder, any program.

`nvidia-smi` of the driver says it without initializing CUDA. A GPU is found by its UUID, because the numbers of the
driver and those of CUDA may differ.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import time
from collections.abc import Mapping

from toolkit.system.machine import Machine

_QUERY = ("--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits")
_TIMEOUT_SECONDS = 10.0
_KEPT_SECONDS = 3.0
"""A run that waits for memory is looked at every second; the driver may need as long to answer."""
_SAME_SIZE = 0.9
"""Part of the memory that CUDA has counted: the rows of a GPU that is divided (MIG) are much larger than its parts."""
logger = logging.getLogger(__name__)
_last: tuple[float, Mapping[str, tuple[int, int]]] | None = None


def read_free_gpu_memory(machine: Machine) -> dict[int, int]:
    """Return the free bytes of each GPU by its number; without those of which the driver says nothing."""
    global _last
    if not any(gpu.uuid for gpu in machine.gpus):
        return {}
    if _last is None or time.monotonic() - _last[0] > _KEPT_SECONDS:
        _last = (time.monotonic(), _ask_driver())
    free = {}
    for number, gpu in enumerate(machine.gpus):
        total, unused = _last[1].get(gpu.uuid, (0, 0))
        if total and min(total, gpu.memory_bytes) >= _SAME_SIZE * max(total, gpu.memory_bytes):
            free[number] = unused
    return free


def _ask_driver() -> dict[str, tuple[int, int]]:
    """Return the total and the free bytes of each GPU by its UUID; nothing where the driver does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    try:
        answer = subprocess.run(
            [program, *_QUERY], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.info("nvidia-smi does not say how much memory is free: %s", error)
        return {}
    found = {}
    for line in answer.stdout.decode(errors="replace").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 3 and fields[1].isdigit() and fields[2].isdigit():
            found[fields[0].removeprefix("GPU-")] = (int(fields[1]) << 20, int(fields[2]) << 20)
    return found
