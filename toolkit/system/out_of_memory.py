"""How a lack of memory is recognized and explained, for every process of the project.

Python, torch, Arrow and the CUDA libraries each report a failed allocation in their own words. This module holds the
only list of those words, and the sentences that a user reads in each situation.
"""

from __future__ import annotations

import re
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
