"""Reads back what trackers have written: the event files of TensorBoard, the folders of MLflow, and the offline files
of Weights & Biases."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

Point = tuple[str, int, float]
_WANDB_BLOCK, _WANDB_HEADER = 32768, 7


def read_tensorboard_points(folder: Path) -> list[Point]:
    """Return every scalar of the event files in a run's folder, in their order."""
    events = import_module("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for raw in _read_records(path.read_bytes()):
            event = events.Event.FromString(raw)
            found += [
                (value.tag, event.step, value.simple_value)
                for value in event.summary.value
                if value.WhichOneof("value") == "simple_value"
            ]
    return found


def read_mlflow_points(folder: Path) -> list[Point]:
    """Return every line of the metric files in a folder of MLflow: time, value, step."""
    found = []
    for path in folder.glob("*/*/metrics/**/*"):
        if path.is_file():
            rows = [line.split() for line in path.read_text().splitlines()]
            found += [(path.name, int(step), float(value)) for _, value, step in rows]
    return found


def read_wandb_points(folder: Path) -> list[Point]:
    """Return every number that the offline runs in a folder hold."""
    proto: Any = import_module("wandb.proto.wandb_internal_pb2")
    found = []
    for path in sorted((folder / "wandb").glob("offline-run-*/run-*.wandb")):
        for raw in _read_log(path.read_bytes()):
            record = proto.Record.FromString(raw)
            if record.WhichOneof("record_type") != "history":
                continue
            row = {".".join(item.nested_key) or item.key: float(item.value_json) for item in record.history.item}
            found += [(name, int(row["_step"]), value) for name, value in row.items() if not name.startswith("_")]
    return found


def _read_records(raw: bytes) -> Iterator[bytes]:
    """Yield the records of TensorFlow's format: length (8 bytes), its checksum (4), the data, its checksum (4)."""
    at = 0
    while at + 12 <= len(raw):
        (length,) = struct.unpack_from("<Q", raw, at)
        yield raw[at + 12 : at + 12 + length]
        at += length + 16


def _read_log(raw: bytes) -> Iterator[bytes]:
    """Yield the records of LevelDB's log format: blocks of fragments, each with checksum, length and place."""
    at, whole = _WANDB_HEADER, b""
    while at + _WANDB_HEADER <= len(raw):
        if _WANDB_BLOCK - at % _WANDB_BLOCK < _WANDB_HEADER:
            at += _WANDB_BLOCK - at % _WANDB_BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, at)
        whole += raw[at + _WANDB_HEADER : at + _WANDB_HEADER + length]
        at += _WANDB_HEADER + length
        if kind in (1, 4):  # complete, or the last part
            yield whole
            whole = b""
