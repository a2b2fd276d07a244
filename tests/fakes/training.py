"""Small runs for the worker's tests: a table, a config for a tiny model, and functions that execute a run."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.config import Config
from toolkit.data.table import Table, load_table, make_table_footer
from toolkit.runs.events import Event, read_events
from toolkit.runs.run_dir import RunDir, create_run

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["lamp", "chair", "table", "plate", "spoon", "shelf", "clock", "scarf"]


def rows(count: int) -> list[dict[str, str | None]]:
    """Return questions of different lengths, each with an answer."""
    return [
        {"question": f"order {WORDS[i % 8]} " + "please " * (i % 5), "answer": f"{i % 9 + 1} {WORDS[i % 8]}"}
        for i in range(count)
    ]


def make_table(path: Path, cells: Sequence[dict[str, str | None]], held_out: int = 0) -> Table:
    """Write a table. held_out: number of rows at its end that are the test set."""
    names = list(cells[0])
    table = pa.table({name: pa.array([row[name] for row in cells], pa.string()) for name in names})
    missing = {name: table[name].null_count for name in names}
    sha256 = hashlib.sha256(repr(list(cells)).encode()).hexdigest()
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(make_table_footer(sha256, "made by a test", missing, (), held_out=held_out))
    return load_table(path)


def draft(save_dir: Path, model: Path, **training: Any) -> dict[str, Any]:
    """Return the settings of a run of a few steps, as a nested dict."""
    args = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "warmup_ratio": 0.0,
        **training,
    }
    return {
        "save_dir": str(save_dir),
        "data": {"prompt": "{question}", "prompt_stub": "{answer}", "train_size": 16, "test_size": 5},
        "model": {"hf_model_ckpt": str(model)},
        "lora": {"r": 4, "lora_alpha": 8},
        "training": {"training_args": args, "sft_args": {"max_seq_length": 64}},
        "inference": {"max_new_tokens": 16},  # longer than every answer of `rows`; a random model knows no end
    }


def make_run(settings: dict[str, Any], cells: Sequence[dict[str, str | None]] | None = None) -> RunDir:
    save_dir = Path(settings["save_dir"])
    save_dir.mkdir(parents=True, exist_ok=True)
    table = make_table(save_dir / "table.parquet", cells or rows(24))
    return create_run(Config.model_validate(settings), table)


@contextmanager
def own_signals() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT, which the worker replaces."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_here(run: RunDir) -> tuple[int, list[Event]]:
    """Execute the run in this process, which saves the imports; return (exit code, events)."""
    import torch

    from toolkit.worker.train import main

    threads = torch.get_num_threads()
    os.environ["FTK_SAVE_DIR"] = str(run.save_dir)
    try:
        with own_signals():
            code = main(run.id)
    finally:
        torch.set_num_threads(threads)
        del os.environ["FTK_SAVE_DIR"]
    return code, events_of(run)


def start_worker(run: RunDir, argv: list[str] | None = None, **more: str) -> subprocess.Popen[bytes]:
    """Start the worker as the supervisor does: in its own session, with its output in the run's log."""
    command = argv or [sys.executable, "-m", "toolkit.worker.train", run.id]
    environment = {
        **os.environ,
        "FTK_SAVE_DIR": str(run.save_dir),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **more,
    }
    with run.log_path.open("ab") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def events_of(run: RunDir, kind: str | None = None) -> list[Event]:
    found, _ = read_events(run.events_path)
    return [event for event in found if kind is None or event["kind"] == kind]
