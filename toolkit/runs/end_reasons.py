"""Explanations of why a run ended, each with the next step.

The worker explains an exception that it caught; the supervisor explains a worker that died without writing a last
event.
"""

from __future__ import annotations

import itertools
import re
import signal
from dataclasses import dataclass, replace

from toolkit.system.out_of_memory import (
    REDUCE_TRAINING_MEMORY_HINT,
    MemoryKind,
    find_out_of_memory,
    out_of_memory_message,
)


@dataclass(frozen=True)
class Explanation:
    """reason: an identifier for programs. message: what happened. hint: what to do next. trace: where in the code.

    outside: another process ended the worker, and the kernel's counters rule out a lack of memory.
    """

    reason: str
    message: str
    hint: str
    trace: str = ""
    outside: bool = False


START_AGAIN = "It can be started again."
TRACE_LINES = 12
"""Lines of a traceback that are kept: enough for the frames of this project below those of the libraries."""
_NO_NETWORK = "Check the connection, enter the path of a local folder, or use bundled:demo-model."
# (reason, pattern, message, hint). The first pattern that is found in "ExceptionType: text" decides: specific errors
# come before general ones, for instance a full disk before any OSError.
_KNOWN_ERRORS: tuple[tuple[str, str, str, str], ...] = (
    ("disk_full", r"No space left on device|os error 28|ENOSPC|Disk quota exceeded|PytorchStreamWriter failed writing",
     "The disk is full.", "Free space on the volume of the output folder (delete old runs), then start again."),
    ("diverged", r"DivergedError|loss is (nan|inf)",
     "Training diverged: the loss became NaN or infinite.", "Lower learning_rate, or lower max_grad_norm."),
    ("model_not_found", r"RepositoryNotFound|RevisionNotFound|is not a local folder and is not a valid model "
     r"identifier|"
     r"GatedRepo|401 Client Error|404 Client Error|Unrecognized model in|no file named .*safetensors",
     "The model can't be found, or you have no access to it.",
     "Check model.hf_model_ckpt. For a gated model, accept its license and set HF_TOKEN."),
    ("port_in_use", r"Tried to launch distributed communication on port|EADDRINUSE|Address already in use",
     "The port at which the processes of the run meet is in use by another program.",
     "Choose another port of the main machine (main_process_port), the same on every machine."),
    ("no_network", r"OfflineModeIsEnabled|LocalEntryNotFound|ConnectionError|ConnectTimeout|ReadTimeout|"
     r"couldn't connect to|Name or service not known|Temporary failure in name resolution|Network is unreachable|"
     r"MaxRetryError|ConnectError",
     "The Hugging Face Hub can't be reached.", _NO_NETWORK),
    ("bad_data", r"^DataError|DatasetGeneration|ArrowInvalid|Parquet magic bytes",
     "The data can't be used.", "Check it on the Data page."),
    ("bad_settings", r"^ConfigError|Target modules .* not found|target_modules|Please specify `target_modules`",
     "A setting doesn't fit this model.", "For lora.target_modules, all-linear fits every model."),
    ("no_gpu", r"Torch not compiled with CUDA|No CUDA GPUs are available|CUDA driver|Found no NVIDIA driver",
     "There is no usable GPU on this machine.", "Set device_map to auto or cpu."),
    ("gpu_error", r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS|NCCL error|ncclUnhandled|device-side assert|AcceleratorError",
     "The GPU reported an error.", "Start it again. If it happens again, restart the machine or its GPU driver."),
    ("permission", r"^PermissionError|Permission denied|Read-only file system",
     "A file or folder can't be read or written.",
     "Check the permissions of the output folder and of the model's folder."),
    ("missing_file", r"^FileNotFoundError|No such file or directory",
     "A file that the run needs is missing.", "If it was moved or deleted, restore it, or start a new run."),
    ("disk_error", r"Input/output error|Stale file handle|Structure needs cleaning",
     "The disk or the network drive reported an error.",
     "Check the drive that the output folder is on, then start again."),
    ("missing_package", r"^(ModuleNotFoundError|ImportError)",
     "A package is missing or broken.", "Run pip install -r requirements.txt again."),
)  # fmt: skip
_OUT_OF_MEMORY_REASONS: dict[MemoryKind, str] = {"gpu": "out_of_memory_gpu", "host": "out_of_memory"}
_QUOTED_REASONS = frozenset(
    {
        "bad_data",
        "bad_settings",
        "permission",
        "missing_file",
        "disk_error",
        "missing_package",
        "model_not_found",
        "gpu_error",
    }
)
"""Reasons whose message quotes the exception: it names the file, the setting or the model."""
_REASONS_WITHOUT_TRACEBACK = frozenset({"out_of_memory_gpu", "out_of_memory", "disk_full"})
"""Reasons that libraries also print without a traceback; the patterns of the others match harmless log lines too."""
_RANK = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)
_EXCEPTION_LINE = re.compile(r"^(?:[\w.]+\.)?(\w+)(?:: ?(.*))?$")
_CRASH_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
)
"""Signals that a program raises by its own fault; every other one comes from outside."""
_FATAL_PREFIX = "Fatal Python error: "
"""How faulthandler, which every worker enables, begins its report of a crash."""
_FATAL_ERROR_SIGNALS = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Bus error": signal.SIGBUS,
    "Floating point exception": signal.SIGFPE,
    "Illegal instruction": signal.SIGILL,
}
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


def explain_exception(type_name: str, text: str) -> Explanation:
    """Explain a Python exception, given the name of its type and its text."""
    found = _recognize(f"{type_name.rpartition('.')[2]}: {text}")
    if found is not None:
        return found
    first = _first_line(text)
    return Explanation(
        "bug",
        f"The worker failed with an unexpected error: {type_name}{': ' + first if first else ''}",
        "The log has the details. If the settings are correct, this is a bug: please report it with the log.",
    )


def explain_error(error: Exception) -> tuple[str, str]:
    """Return (message, hint) for an exception that a background job has caught."""
    found = explain_exception(type(error).__name__, str(error))
    return found.message, found.hint


def explain_death(
    returncode: int | None,
    log_tail: str,
    *,
    oom_killed: bool | None = False,
    rebooted: bool = False,
    disk_full: bool = False,
) -> Explanation:
    """Explain the death of a worker that wrote no last event.

    returncode: as `subprocess` gives it (-9 for SIGKILL; 128 + n from a launcher counts too), None when another process
    was its parent. log_tail: the last lines that this attempt wrote to worker.log. oom_killed: the kernel's count of
    processes that it killed for memory has risen since the start; None when the count can't be read. rebooted: the
    machine was restarted since. disk_full: the run's volume has no space left now.
    """
    # The most certain evidence comes first: a restart, then a signal that leaves no trace in the log, then the log
    # itself, and only then what the exit code suggests.
    if rebooted:
        message = "The machine was switched off or restarted during the run."
        return Explanation("interrupted", message, START_AGAIN, outside=True)
    log = _RANK.sub("", log_tail)
    number = _signal_of(returncode, log)
    if number == signal.SIGKILL or (number is None and returncode is None and oom_killed):
        return _explain_sigkill(oom_killed)
    exception = _last_exception(log)
    if exception is not None:
        return replace(explain_exception(*exception[:2]), trace=exception[2])
    recognized = _recognize(log)
    if recognized is not None and recognized.reason in _REASONS_WITHOUT_TRACEBACK:
        return recognized
    if disk_full and number in (
        None,
        signal.SIGBUS,
    ):  # the log had no space for the error; a memory-mapped file raises SIGBUS
        return replace(explain_exception("OSError", "No space left on device"), trace=_fault_trace(log))
    if number is not None:
        return _explain_native_crash(number, log) if number in _CRASH_SIGNALS else _explain_outside_signal(number)
    if returncode is None:
        message = "The worker ended while the app was closed, without reporting a reason."
        return Explanation("interrupted", message, START_AGAIN)
    return Explanation(
        "bug",
        f"The worker ended without reporting a reason (exit code {returncode}).",
        "The log has its last output. Please report this bug with the log.",
    )


def _explain_sigkill(oom_killed: bool | None) -> Explanation:
    if oom_killed:
        return Explanation("out_of_memory", *out_of_memory_message("host", "training_killed"))
    if oom_killed is None:  # this system has no such count: a lack of memory can't be ruled out
        message = "The worker was killed (SIGKILL), either by hand or because its container ran out of memory."
        hint = f"{START_AGAIN} If it happens again: {REDUCE_TRAINING_MEMORY_HINT}"
        return Explanation("killed", message, hint)
    message = "The worker was killed from outside (SIGKILL), not because memory ran out."
    return Explanation("killed", message, START_AGAIN, outside=True)


def _explain_outside_signal(number: int) -> Explanation:
    message = f"The worker was ended from outside ({_signal_name(number)})."
    return Explanation("killed", message, START_AGAIN, outside=True)


def _explain_native_crash(number: int, log: str) -> Explanation:
    """Explain a crash in native code; the log holds the Python frames that faulthandler wrote."""
    trace = _fault_trace(log)
    frame = _FRAME.search(trace)
    place = f" while Python was at {frame[1].rpartition('/')[2]}, line {frame[2]} ({frame[3]})" if frame else ""
    return Explanation(
        "native_crash",
        f"The worker crashed inside a native library (signal {number}, {_signal_name(number)}){place}.",
        "Start it again. If it happens again, another precision or optimizer may avoid it; the log has the trace.",
        trace,
    )


def _fault_trace(log: str) -> str:
    """Return the last report of faulthandler: the error, and the frames of the thread in which it happened."""
    at = log.rfind(_FATAL_PREFIX)
    if at < 0:
        return ""
    lines = log[at:].splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith("Current thread")), None)
    if begin is None:
        return lines[0]
    frames = itertools.takewhile(lambda line: line.startswith("  "), lines[begin + 1 :])
    return "\n".join([lines[0], *itertools.islice(frames, TRACE_LINES)])


def _recognize(text: str) -> Explanation | None:
    kind = find_out_of_memory(text)  # first: a library that lacks memory often reports a second error as well
    if kind is not None:
        return Explanation(_OUT_OF_MEMORY_REASONS[kind], *out_of_memory_message(kind, "training"))
    for reason, pattern, message, hint in _KNOWN_ERRORS:
        found = re.search(pattern, text, re.IGNORECASE | re.MULTILINE)
        if found:
            quote = _first_line(text.partition(": ")[2]) if reason in _QUOTED_REASONS else ""
            return Explanation(reason, f"{message} ({quote})" if quote else message, hint)
    return None


def _last_exception(log: str) -> tuple[str, str, str] | None:
    """Return (type, text, trace) of the last traceback; None when the log has no complete one."""
    at = log.rfind("Traceback (most recent call last)")
    if at < 0:
        return None
    lines = log[at:].splitlines()
    # frames are indented; the exception is the first line below them, and other log lines may follow
    end = next((i for i, line in enumerate(lines[1:], 1) if line and not line.startswith(" ")), None)
    if end is None or (found := _EXCEPTION_LINE.match(lines[end])) is None:
        return None
    return found.group(1), found.group(2) or "", "\n".join(lines[max(1, end - TRACE_LINES) : end + 1])


def _signal_of(returncode: int | None, log_tail: str) -> int | None:
    if returncode is not None and returncode < 0:
        return -returncode
    if returncode is not None and 128 < returncode < 160:
        return returncode - 128
    if returncode is not None and returncode > 0:
        # the accelerate launcher exits with 1 and prints the exit codes of its ranks
        ranks = re.findall(r"exitcode\s*:\s*-(\d+)", log_tail)
        return int(ranks[-1]) if ranks else None
    return next((number for words, number in _FATAL_ERROR_SIGNALS.items() if _FATAL_PREFIX + words in log_tail), None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 300 else line[:297] + "..."
