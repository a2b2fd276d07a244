"""Every end is explained: known errors are recognized, unknown ones are quoted, and there is always a next step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.runs.end_reasons import explain_death, explain_exception

EXCEPTIONS = [
    ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB.", "out_of_memory_gpu"),
    ("RuntimeError", "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", "out_of_memory"),
    ("MemoryError", "", "out_of_memory"),
    ("RuntimeError", "can't start new thread", "out_of_memory"),
    ("SafetensorError", "Error while serializing: I/O error: No space left on device (os error 28)", "disk_full"),
    ("OSError", "[Errno 28] No space left on device", "disk_full"),
    ("RuntimeError", "PytorchStreamWriter failed writing file data/3", "disk_full"),
    ("DivergedError", "The loss became NaN at step 3", "diverged"),
    ("OSError", "foo is not a local folder and is not a valid model identifier listed on the hub", "model_not_found"),
    ("huggingface_hub.errors.GatedRepoError", "403 Client Error", "model_not_found"),
    ("huggingface_hub.errors.OfflineModeIsEnabled", "Cannot reach the hub", "no_network"),
    ("ConnectionError", "Tried to launch distributed communication on port `29500`, but another", "port_in_use"),
    ("ConnectionError", "HTTPSConnectionPool: Max retries exceeded", "no_network"),
    ("OSError", "We couldn't connect to 'https://huggingface.co' to load the files", "no_network"),
    ("DataError", "Row 3 has no answer.", "bad_data"),
    ("ValueError", "Target modules {'nope'} not found in the base model.", "bad_settings"),
    ("AssertionError", "Torch not compiled with CUDA enabled", "no_gpu"),
    ("RuntimeError", "CUDA error: an illegal memory access was encountered", "gpu_error"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate", "out_of_memory_gpu"),
    ("pyarrow.lib.ArrowInvalid", "Parquet magic bytes not found in footer.", "bad_data"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: 'source.parquet'", "missing_file"),
    ("OSError", "[Errno 5] Input/output error", "disk_error"),
    ("PermissionError", "[Errno 13] Permission denied: '/x'", "permission"),
    ("ModuleNotFoundError", "No module named 'trl'", "missing_package"),
    ("ZeroDivisionError", "division by zero", "bug"),
]


@pytest.mark.parametrize(("type_name", "text", "reason"), EXCEPTIONS)
def test_an_exception_has_its_reason(type_name: str, text: str, reason: str) -> None:
    found = explain_exception(type_name, text)
    assert found.reason == reason
    assert found.message
    assert found.hint
    assert "Traceback" not in found.message


def test_an_unknown_error_is_quoted() -> None:
    assert "division by zero" in explain_exception("ZeroDivisionError", "division by zero\nmore").message


TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\n'
DEATHS = [
    (-9, "", {}, "killed"),
    (-9, "", {"oom_killed": True}, "out_of_memory"),
    (137, "", {"oom_killed": True}, "out_of_memory"),
    (None, "", {"oom_killed": True}, "out_of_memory"),
    (-15, "", {}, "killed"),
    (143, "", {}, "killed"),
    (-11, "", {}, "native_crash"),
    (-6, "terminate called after throwing an instance of 'std::bad_alloc'", {}, "out_of_memory"),
    (-6, "", {}, "native_crash"),
    (-7, "", {}, "native_crash"),
    (None, "Fatal Python error: Segmentation fault\n", {}, "native_crash"),
    (1, TRACE + "MemoryError\n", {}, "out_of_memory"),
    (1, TRACE + "torch.OutOfMemoryError: CUDA out of memory.\n", {}, "out_of_memory_gpu"),
    (1, TRACE + "OSError: [Errno 28] No space left on device\n", {}, "disk_full"),
    (None, TRACE + "ValueError: odd\n", {}, "bug"),
    (1, TRACE + "ValueError: old\nall well again\n" + TRACE + "KeyError: 'new'\nmore words\n", {}, "bug"),
    (1, "  exitcode  : -9 (pid: 7)", {}, "killed"),
    (1, "  exitcode  : -11 (pid: 7)", {}, "native_crash"),
    (1, "config: target_modules=['x'], ConnectionError handling on", {}, "bug"),
    (1, "[rank0]: " + TRACE.replace("\n", "\n[rank0]: ") + "MemoryError\n", {}, "out_of_memory"),
    (1, TRACE + "ValueError: a wrong turn\nNote: done\nFinished\n", {}, "bug"),
    (1, "", {"disk_full": True}, "disk_full"),
    (-7, "", {"disk_full": True}, "disk_full"),
    (-11, "", {"disk_full": True}, "native_crash"),
    (-9, "", {"disk_full": True}, "killed"),
    (-9, "", {"oom_killed": None}, "killed"),
    (-24, "", {}, "killed"),
    (-8, "", {}, "native_crash"),
    (-4, "", {}, "native_crash"),
    (None, "Fatal Python error: Bus error\n", {}, "native_crash"),
    (0, "", {}, "bug"),
    (3, "", {}, "bug"),
    (None, "", {}, "interrupted"),
    (None, "", {"rebooted": True}, "interrupted"),
    (-9, "", {"rebooted": True}, "interrupted"),
]


@pytest.mark.parametrize(("returncode", "tail", "more", "reason"), DEATHS)
def test_a_death_has_its_reason(returncode: int | None, tail: str, more: dict[str, bool], reason: str) -> None:
    found = explain_death(returncode, tail, **more)
    assert found.reason == reason
    assert found.message
    assert found.hint


def test_the_last_traceback_counts() -> None:
    tail = TRACE + "ValueError: old\n" + TRACE + "KeyError: 'new'\n"
    assert "KeyError" in explain_death(1, tail).message


@given(st.none() | st.integers(-70, 300), st.text(max_size=300), st.booleans(), st.booleans())
def test_there_is_always_a_message_and_a_next_step(
    returncode: int | None, tail: str, oom: bool, rebooted: bool
) -> None:
    for found in (
        explain_death(returncode, tail, oom_killed=oom, rebooted=rebooted),
        explain_death(returncode, TRACE + tail, oom_killed=oom),
        explain_exception(tail[:20], tail),
    ):
        assert found.reason
        assert found.message
        assert found.hint
        assert len(found.message) < 600


CRASH = """Fatal Python error: Segmentation fault

Thread 0x00007f1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait

Current thread 0x00007f2 (most recent call first):
  File "/venv/torch/nn/functional.py", line 2379 in embedding
  File "/venv/torch/nn/modules/sparse.py", line 193 in forward

Extension modules: numpy.core (total: 1)
"""


def test_a_native_crash_names_the_python_frame() -> None:
    found = explain_death(-11, "some words\n" + CRASH)
    assert "SIGSEGV" in found.message
    assert "functional.py, line 2379 (embedding)" in found.message
    assert "sparse.py" in found.trace
    assert "threading" not in found.trace


def test_a_kill_is_attributed_to_memory_only_if_possible() -> None:
    assert "not because memory ran out" in explain_death(-9, "").message
    assert "its container ran out of memory" in explain_death(-9, "", oom_killed=None).message
    assert "ran out of memory" in explain_death(-9, "", oom_killed=True).message


def test_an_end_from_outside_is_recorded_only_if_certain() -> None:
    sure = [(-9, False, False), (-15, False, False), (None, False, True), (-9, False, True)]
    unsure = [(-9, True, False), (-9, None, False), (-11, False, False), (None, False, False), (3, False, False)]
    found = [
        explain_death(code, "", oom_killed=oom, rebooted=rebooted).outside for code, oom, rebooted in (*sure, *unsure)
    ]
    assert found == [True] * len(sure) + [False] * len(unsure)


def test_log_lines_after_a_traceback_are_not_part_of_it() -> None:
    found = explain_death(1, TRACE + "ValueError: a wrong turn\nFinished: all well\n")
    assert "ValueError: a wrong turn" in found.message
    assert found.trace.endswith("ValueError: a wrong turn")
