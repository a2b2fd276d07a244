"""A lack of memory is recognized whoever reports it, and explained in every situation."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pyarrow
import pytest

from toolkit.system.out_of_memory import (
    MemoryKind,
    MemorySituation,
    find_out_of_memory,
    out_of_memory_kind,
    out_of_memory_message,
)

ALLOCATION_ERRORS: list[tuple[Exception, MemoryKind]] = [
    (MemoryError(), "host"),
    (pyarrow.ArrowMemoryError("malloc of size 64 failed"), "host"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried"), "host"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:80] DefaultCPUAllocator: not enough memory: you tried"), "host"),
    (OSError("[Errno 12] Cannot allocate memory"), "host"),
    (RuntimeError("can't start new thread"), "host"),
    (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "gpu"),
    (RuntimeError("CUDA error: out of memory"), "gpu"),
    (RuntimeError("Triton Error [CUDA]: out of memory"), "gpu"),
    (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "gpu"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "gpu"),
]
OTHER_ERRORS = [
    None,
    ValueError("CUDA out of memory is what the user wrote in this cell"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    OSError("[Errno 28] No space left on device"),
]


@pytest.mark.parametrize(("error", "kind"), ALLOCATION_ERRORS)
def test_an_allocation_error_tells_which_memory_ran_out(error: Exception, kind: MemoryKind) -> None:
    assert out_of_memory_kind(error) == kind


@pytest.mark.parametrize("error", OTHER_ERRORS)
def test_another_error_is_no_lack_of_memory(error: Exception | None) -> None:
    assert out_of_memory_kind(error) is None


def test_numpy_reports_a_lack_of_memory() -> None:
    with pytest.raises(MemoryError) as caught:
        np.empty(2**60, dtype=np.int8)
    assert out_of_memory_kind(caught.value) == "host"
    assert find_out_of_memory(f"numpy._core._exceptions.{type(caught.value).__name__}: {caught.value}") == "host"


def test_a_log_is_searched_line_by_line() -> None:
    assert find_out_of_memory("step 3\nterminate called after throwing an instance of 'std::bad_alloc'\n") == "host"
    assert find_out_of_memory("torch.OutOfMemoryError: CUDA out of memory.\n") == "gpu"
    assert find_out_of_memory("step 3\nMemoryError\n") == "host"


def test_an_announcement_of_smaller_batches_is_no_lack_of_memory() -> None:
    assert find_out_of_memory("Out of memory before: 4 rows are computed at a time. It is the same experiment.") is None


@pytest.mark.parametrize("situation", get_args(MemorySituation))
@pytest.mark.parametrize("kind", get_args(MemoryKind))
def test_every_situation_has_a_message_and_a_next_step(kind: MemoryKind, situation: MemorySituation) -> None:
    message, hint = out_of_memory_message(kind, situation)
    assert "memory" in message
    assert message.endswith(".")
    assert hint.endswith(".")
