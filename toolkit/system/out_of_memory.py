"""How a lack of memory is recognized and explained, for every process of the project.

Python, torch, Arrow and the CUDA libraries each report a failed allocation in their own words. This module holds the
only list of those words, and the sentences that a user reads in each situation. It also reads the kernel's records of
processes that were killed because memory ran out.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Literal, NamedTuple

MemoryKind = Literal["gpu", "host"]
"""Which memory ran out: that of a GPU, or the main memory of this machine."""
MemorySituation = Literal[
    "training", "training_killed", "loading_model", "generating", "evaluation_row", "measurement_killed"
]
"""What the memory was needed for; "..._killed": the operating system ended the process (SIGKILL)."""


class OutOfMemoryMessage(NamedTuple):
    """message: what happened. hint: the next step. Both are whole sentences."""

    message: str
    hint: str


REDUCE_TRAINING_MEMORY_HINT = (
    "Lower per_device_train_batch_size and raise gradient_accumulation_steps by the same factor, lower max_seq_length, "
    "or turn on gradient_checkpointing."
)
LIKELY_KILLED_FOR_MEMORY = "it was killed, most likely because the machine ran out of memory"
"""Part of a sentence, for a child process that ended with SIGKILL for an unrecorded reason."""

PID_NAMESPACE = Path("/proc/self/ns/pid")
ROOT_PID_NAMESPACE = "pid:[4026531836]"
"""The initial PID namespace, whose pids the kernel's log contains. Its inode number is a constant of the kernel."""
_KILLED_PROCESS = re.compile(r"Killed process (\d+) ")

_GPU_PATTERN = re.compile(
    r"OutOfMemoryError|(CUDA|HIP|XPU|MPS|Triton|cudaMalloc)[^\n]{0,40}out of memory|"
    r"CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
# "can't allocate memory" is torch's CPU allocator on Linux, "not enough memory" the same one on Windows
_HOST_PATTERN = re.compile(
    r"^([\w.]+\.)?MemoryError|ArrayMemoryError|ArrowMemoryError|DefaultCPUAllocator|can't allocate memory|"
    r"Cannot allocate memory|not enough memory|std::bad_alloc|realloc of size|can't start new thread",
    re.IGNORECASE | re.MULTILINE,
)
_REDUCE_HOST_MEMORY_HINT = f"{REDUCE_TRAINING_MEMORY_HINT} Close other programs, or choose a smaller model."
_MESSAGES: dict[MemorySituation, dict[MemoryKind, OutOfMemoryMessage]] = {
    "training": {
        "gpu": OutOfMemoryMessage(
            "The GPU ran out of memory.",
            f"{REDUCE_TRAINING_MEMORY_HINT} Turning on quantize makes the base model about four times smaller.",
        ),
        "host": OutOfMemoryMessage("The machine ran out of memory.", _REDUCE_HOST_MEMORY_HINT),
    },
    "training_killed": {
        "host": OutOfMemoryMessage(
            "The machine ran out of memory, and the operating system killed the worker.", _REDUCE_HOST_MEMORY_HINT
        ),
    },
    "loading_model": {
        "gpu": OutOfMemoryMessage(
            "There is not enough GPU memory for this model.",
            "Choose a smaller model, quantize it, or close other programs that use the GPU.",
        ),
        "host": OutOfMemoryMessage(
            "There is not enough memory for this model.",
            "Choose a smaller model, quantize it, or close other programs.",
        ),
    },
    "generating": {
        "gpu": OutOfMemoryMessage(
            "There is not enough GPU memory for this prompt and answer.",
            "Shorten the prompt, lower max_new_tokens, or close other programs that use the GPU.",
        ),
        "host": OutOfMemoryMessage(
            "There is not enough memory for this prompt and answer.",
            "Shorten the prompt, lower max_new_tokens, or close other programs.",
        ),
    },
    "evaluation_row": {
        "gpu": OutOfMemoryMessage(
            "There is not enough GPU memory for this row.", "Shorten the row, or close other programs that use the GPU."
        ),
        "host": OutOfMemoryMessage(
            "There is not enough memory for this row.", "Shorten the row, or close other programs."
        ),
    },
    "measurement_killed": {
        "host": OutOfMemoryMessage(
            "The measurement ran out of memory, and the operating system killed it.",
            f"These settings do not fit on this machine. {REDUCE_TRAINING_MEMORY_HINT}",
        ),
    },
}


def find_out_of_memory(text: str) -> MemoryKind | None:
    """Return which memory ran out according to `text`, or None when it reports no lack of memory.

    text: an exception as "TypeName: message", or the lines of a log.
    """
    if _GPU_PATTERN.search(text):
        return "gpu"
    return "host" if _HOST_PATTERN.search(text) else None


def out_of_memory_kind(error: BaseException | None) -> MemoryKind | None:
    """Return which memory was missing for the allocation that raised `error`, or None for any other error."""
    if isinstance(error, MemoryError):
        return "host"
    # a ValueError or a ToolkitError may quote such words; libraries raise these two only
    if not isinstance(error, (RuntimeError, OSError)):
        return None
    return find_out_of_memory(f"{type(error).__name__}: {error}")


def out_of_memory_message(kind: MemoryKind, situation: MemorySituation) -> OutOfMemoryMessage:
    """Return what to show to the user when memory of this kind ran out in this situation.

    A process that the operating system killed always ran out of main memory: `kind` does not matter there.
    """
    messages = _MESSAGES[situation]
    return messages.get(kind, messages["host"])


def count_oom_kills() -> int | None:
    """Return how many processes the kernel has killed for memory, on the machine and in this process's control group.

    None where the kernel provides no count. Only differences are meaningful: a kill may be in both counts.
    """
    files = [Path("/proc/vmstat")]
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files.append(Path(f"/sys/fs/cgroup{path}/memory.events"))
        elif controllers == "memory":
            files.append(Path(f"/sys/fs/cgroup/memory{path}/memory.oom_control"))
    counts = [count for file in files if (count := _read_oom_count(file)) is not None]
    return sum(counts) if counts else None


def _read_oom_count(file: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) if found else None


def find_oom_victims(since: float, log: Path = Path("/dev/kmsg")) -> set[int] | None:
    """Return the pids of the processes that the kernel has killed for memory since `since` (Unix seconds).

    None where the kernel's log is not readable, or where its pids are not those of this process's namespace.
    """
    try:
        if str(PID_NAMESPACE.readlink()) != ROOT_PID_NAMESPACE:
            return None
        handle = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    booted = time.time() - time.monotonic()
    try:
        return {
            int(found[1])
            for at, text in _read_kernel_log(handle)
            # one second of tolerance: the two clocks drift apart
            if booted + at >= since - 1 and (found := _KILLED_PROCESS.search(text))
        }
    finally:
        os.close(handle)


def _read_kernel_log(handle: int) -> list[tuple[float, str]]:
    """Return (seconds since the machine started, text) of each record that the kernel still keeps."""
    found: list[tuple[float, str]] = []
    while True:
        try:
            record = os.read(handle, 8192)
        except BlockingIOError:
            return found
        except BrokenPipeError:  # the record was overwritten during the read; the next one is available
            continue
        if not record:
            return found
        head, _, text = record.decode(errors="replace").partition(";")
        fields = head.split(",")
        if len(fields) > 2 and fields[2].isdigit():
            found.append((int(fields[2]) / 1e6, text))
