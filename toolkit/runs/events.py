"""The log of a run: append-only JSON lines with a sequence number, attempt, time and checksum. One writer.

The writer is whoever holds the run's worker.lock: the worker for life, or a supervisor that closes a dead run.
A reader takes whole lines from an offset, skips a damaged one, and never raises on content.
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

from toolkit.system.durable import fsync_dir

Event = dict[str, Any]
EventReporter = Callable[..., None]
"""(kind, **fields): writes one event, as `EventWriter.append` does."""

TERMINAL_KINDS = ("finished", "stopped", "failed")
DURABLE_KINDS = frozenset(
    {"started", "saved", "adapter", "scores", "answers", "interrupted", "requeued", *TERMINAL_KINDS}
)
"""Kinds that are on the disk when append() returns; the others at most when the system writes next."""
RESERVED_SPACE_KINDS = frozenset({"failed", "interrupted", "stopped"})
"""Kinds for which `reserve` has put space aside."""
RESERVED_SPACE_BYTES = 256 * 1024
_CHECKSUM_MARK = b',"c":'
_NON_SERIES_FIELDS = frozenset({"n", "attempt", "t", "kind", "c", "step"})


class EventWriter:
    """Appends events of one attempt; opening cuts off the torn last line that a crash may have left.

    Only the holder of worker.lock may open one. Raises OSError (a full disk among others); a line that could not be
    written whole is taken back.
    """

    def __init__(self, path: Path, attempt: int = 1) -> None:
        before, whole = read_events(path)
        self.attempt = attempt
        self._ballast = path.with_name(f".{path.name}.ballast")
        self._next = max((event["n"] for event in before), default=0) + 1
        new = not path.exists()
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._handle, whole)
        if new:
            fsync_dir(path.parent)

    def append(self, kind: str, **fields: Any) -> Event:
        """Write one event and return it. Field names n, attempt, t, kind and c are taken."""
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
        """Put some space aside, so that the last event can be written on a disk that filled up meanwhile."""
        with self._ballast.open("wb") as file:
            file.write(os.urandom(RESERVED_SPACE_BYTES))  # nothing that a file system could compress away
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
            os.ftruncate(self._handle, size)
            raise


def encode_event(event: Event) -> bytes:
    """One line, the checksum of what stands before it as its last field."""
    body = json.dumps(event, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return body + _CHECKSUM_MARK + str(zlib.crc32(body)).encode() + b"}\n"


def read_events(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The whole events from byte `offset` on, and the offset to go on from (0 for a file that is not there yet).

    A line without its end stays for the next time. A line that is damaged is skipped.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            raw = file.read()
    except FileNotFoundError:
        return [], 0
    whole = raw.rfind(b"\n") + 1
    lines = raw[: max(0, whole - 1)].split(b"\n")
    found = (
        _decode_verified_lines(lines) if all(_checksum_matches(line) for line in lines) else map(_decode_line, lines)
    )
    return [event for event in found if event is not None], offset + whole


def _checksum_matches(line: bytes) -> bool | None:
    """Whether a line is what its checksum says; None without one."""
    body, mark, check = line.rpartition(_CHECKSUM_MARK)
    return zlib.crc32(body) == int(check[:-1]) if mark and check[:-1].isdigit() else None


def _decode_verified_lines(lines: list[bytes]) -> Iterable[Event | None]:
    """Lines as `encode` wrote them, read as one list: half the time of one after the other."""
    try:
        return map(_valid_event, json.loads(b"[" + b",".join(lines) + b"]"))
    except (ValueError, RecursionError):  # sealed by somebody else
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
    for name, default in (("n", 0), ("attempt", 1), ("t", 0.0)):
        event.setdefault(name, default)
        if not is_finite_number(event[name]):
            return None
    return event


def collect_series(events: Iterable[Event]) -> dict[str, list[tuple[int, float]]]:
    """Every number that `log` and `eval` events carry, as (step, value) by rising step.

    A step that a later attempt replayed shows the later value: one curve, while the file keeps both.
    """
    return {
        name: list(zip(steps, values, strict=True)) for name, (steps, values) in collect_series_columns(events).items()
    }


def collect_series_columns(events: Iterable[Event]) -> dict[str, tuple[list[int], list[float]]]:
    """What `series` gives, as steps and values apart."""
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
    if all(map(operator.lt, steps, itertools.islice(steps, 1, None))):
        return steps, values
    latest = dict(sorted(dict(zip(steps, values, strict=True)).items()))
    return list(latest), list(latest.values())


def is_finite_number(value: object) -> bool:
    """A finite number; True is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _to_json_value(value: Any) -> Any:
    """JSON has no NaN and no infinity: they are kept as words."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _to_json_value(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(inner) for inner in value]
    return value
