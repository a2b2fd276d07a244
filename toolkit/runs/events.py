"""The event log of a run, `events.jsonl`: append-only JSON lines with one writer.

Every line holds `n` (sequence number), `attempt`, `t` (Unix seconds), `kind`, the fields of that kind, and as its last
field `c`, the CRC-32 of what precedes it. Only the holder of worker.lock writes: the worker, or a supervisor that
closes a dead run. Readers take whole lines from an offset, skip damaged ones, and never raise because of the content.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import operator
import os
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from toolkit.errors import RunError
from toolkit.system.durable import durable_write, fsync_dir
from toolkit.system.foreign_files import describe_read_error, open_regular_file

Event = dict[str, Any]
EventReporter = Callable[..., None]
"""(kind, **fields): writes one event, as `EventWriter.append` does."""

TERMINAL_KINDS = ("finished", "stopped", "failed")
DURABLE_KINDS = frozenset(
    {"started", "saved", "adapter", "scores", "answers", "interrupted", "requeued", *TERMINAL_KINDS}
)
"""Kinds that are on the disk when append() returns; the others reach it when the operating system writes them."""
RESERVED_SPACE_KINDS = frozenset({"failed", "interrupted", "stopped"})
"""Kinds that may use the reserved space: they explain why a run ended."""
RESERVED_SPACE_BYTES = 256 * 1024
"""Far more than an event needs: file systems allocate whole blocks, and other processes compete for what is freed."""
_CHECKSUM_MARK = b',"c":'
MAX_LOG_BYTES = 512 * 2**20
"""A run of a month that logs every second writes half of it."""
_BROKEN_LOG_HINT = "Delete the run's folder, or restore this file."
MAX_ATTEMPTS = 10_000
MAX_EVENT_INTEGER = 2**53
"""The largest whole number that is kept: up to it, every one is exact as a float as well."""
_COUNTS = ("step", "total_steps", "epoch", "epochs")
"""Fields that are left out of an event unless they hold a number of things."""
_NON_SERIES_FIELDS = frozenset({"n", "attempt", "t", "kind", "c", "step"})


class EventWriter:
    """Appends the events of one attempt. Only the holder of worker.lock may open one.

    check: called before each event; raises RunError when this process may write no more. Opening removes an incomplete
    last line that a crash may have left. Raises OSError, for instance on a full disk; a line that could not be written
    completely is removed.
    """

    def __init__(self, path: Path, attempt: int = 1, check: Callable[[], None] = lambda: None) -> None:
        before, whole = read_events(path)
        self.attempt, self._check = attempt, check
        self._ballast = path.with_name(f".{path.name}.ballast")
        self._next = max((event["n"] for event in before), default=0) + 1
        new = not path.exists()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._handle, whole)  # else the next event would continue the incomplete line
        if new:
            fsync_dir(path.parent)

    def append(self, kind: str, **fields: Any) -> Event:
        """Write one event and return it. The field names n, attempt, t, kind and c are reserved."""
        self._check()
        event: Event = {"n": self._next, "attempt": self.attempt, "t": round(time.time(), 3), "kind": kind}
        event.update({name: _to_json_value(value) for name, value in fields.items()})
        try:
            self._write(encode_event(event))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or kind not in RESERVED_SPACE_KINDS:
                raise
            self._ballast.unlink(missing_ok=True)
            self._write(encode_event(event))
        self._next += 1
        if kind in DURABLE_KINDS:
            os.fsync(self._handle)
        return event

    def reserve_space(self) -> None:
        """Reserve disk space, so that the last event can be written even if the disk is full by then."""
        with self._ballast.open("wb") as file:
            file.write(
                os.urandom(RESERVED_SPACE_BYTES)
            )  # random: a compressing file system would store zeros in no space
            os.fsync(file.fileno())

    def close(self) -> None:
        os.close(self._handle)
        self._ballast.unlink(missing_ok=True)

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._handle).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError:
            os.ftruncate(self._handle, size)  # a half-written line would damage the next one
            raise


def detach_event_log(path: Path) -> None:
    """Replace the log by a copy, so that a process on another machine that still has it open can't append to it.

    Only the holder of worker.lock may do so. Raises OSError.
    """
    if path.exists():
        durable_write(path, path.read_bytes())


def encode_event(event: Event) -> bytes:
    """Return the event as one line, with the checksum as its last field."""
    body = json.dumps(event, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return body + _CHECKSUM_MARK + str(zlib.crc32(body)).encode() + b"}\n"


def read_events(path: Path, offset: int = 0, limit: int = -1) -> tuple[list[Event], int]:
    """Return the complete events from byte `offset` on, and the offset to continue from (0 if there is no file).

    limit: bytes to read at most; -1: all. An incomplete last line is left for the next call. A damaged line is skipped.
    Raises RunError for what is not a regular file, and for a log that is too large to be one.
    """
    try:
        with open_regular_file(path) as file:
            file.seek(offset)
            if os.fstat(file.fileno()).st_size - offset > MAX_LOG_BYTES:
                raise OSError(errno.EFBIG, f"it is larger than {MAX_LOG_BYTES // 2**20} MiB")
            raw = file.read(limit)
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise RunError(f"{path} can't be read: {describe_read_error(error)}.", _BROKEN_LOG_HINT) from error
    whole = raw.rfind(b"\n") + 1  # the writer may be in the middle of the last line
    lines = raw[: max(0, whole - 1)].split(b"\n")
    found = (
        _decode_verified_lines(lines) if all(_checksum_matches(line) for line in lines) else map(_decode_line, lines)
    )
    return [event for event in found if event is not None], offset + whole


def _checksum_matches(line: bytes) -> bool | None:
    """Return whether a line matches its checksum; None when it has none."""
    body, mark, check = line.rpartition(_CHECKSUM_MARK)
    return zlib.crc32(body) == int(check[:-1]) if mark and check[:-1].isdigit() else None


def _decode_verified_lines(lines: list[bytes]) -> Iterable[Event | None]:
    """Decode lines whose checksums match. Parsing them as one JSON list takes half the time of one by one."""
    try:
        return map(_valid_event, json.loads(b"[" + b",".join(lines) + b"]"))
    except (ValueError, RecursionError):  # a valid checksum around text that is no JSON: not written by `encode_event`
        return map(_decode_line, lines)


def _decode_line(line: bytes) -> Event | None:
    if _checksum_matches(line) is False:
        return None
    try:
        return _valid_event(json.loads(line))
    except (ValueError, RecursionError):
        return None


def _valid_event(event: Any) -> Event | None:
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return None
    number, attempt = event.setdefault("n", 0), event.setdefault("attempt", 1)
    if type(number) is not int or abs(number) > MAX_EVENT_INTEGER or event.setdefault("t", 0.0) is None:
        return None
    if type(attempt) is not int or not 0 <= attempt <= MAX_ATTEMPTS or not _is_count(event["t"]):
        return None
    for name in _COUNTS:
        if name in event and not _is_count(event[name]):
            del event[name]
    return event


def _is_count(value: object) -> bool:
    # called for several fields of every event; JSON has no subclasses, and NaN fails the comparison
    return value is None or (type(value) in (int, float) and 0 <= value <= MAX_EVENT_INTEGER)  # type: ignore[operator]


def collect_series(events: Iterable[Event]) -> dict[str, list[tuple[int, float]]]:
    """Return every number of the `log` and `eval` events by name, as (step, value) with ascending steps.

    Where a later attempt replayed a step, its value replaces the earlier one; the file keeps both.
    """
    return {
        name: list(zip(steps, values, strict=True)) for name, (steps, values) in collect_series_columns(events).items()
    }


def collect_series_columns(events: Iterable[Event]) -> dict[str, tuple[list[int], list[float]]]:
    """Return what `collect_series` returns, as separate lists of steps and values."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for event in events:
        if event["kind"] not in ("log", "eval") or not is_finite_number(event.get("step")):
            continue
        step = int(event["step"])
        for name, value in event.items():
            if name not in _NON_SERIES_FIELDS and is_finite_number(value):
                steps, values = found[name] if name in found else found.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    return {name: _sort_by_step(*column) for name, column in found.items()}


def _sort_by_step(steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
    if all(map(operator.lt, steps, itertools.islice(steps, 1, None))):  # the usual case: no step was replayed
        return steps, values
    latest = dict(sorted(dict(zip(steps, values, strict=True)).items()))
    return list(latest), list(latest.values())


def is_finite_number(value: object) -> bool:
    """Return whether `value` is a finite int or float; bool does not count."""
    if isinstance(value, int):  # math.isfinite fails for one that no float can hold
        return not isinstance(value, bool) and -MAX_EVENT_INTEGER <= value <= MAX_EVENT_INTEGER
    return isinstance(value, float) and math.isfinite(value)


def _to_json_value(value: Any) -> Any:
    """Convert to JSON types. NaN and infinity, which JSON lacks, become strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _to_json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(inner) for inner in value]
    return value
