"""How near the forecast comes: predicted against measured peak memory and step time over a grid of real runs.

    PYTHONPATH=. python -m benchmarks.forecast_accuracy [--only 4] [--json benchmarks/results/forecast.json]

Every config is trained by the real worker, from a run directory, for a few steps on models with random weights, as the
app would start it (in a fork of the spare; FTK_SPARE=0 starts each cold). Predicted is what the app shows before
Start; time is predicted twice, as on a machine without a history and after calibration by the grid's other half.
Memory is the worker's own peak (VmHWM on a CPU, torch's reserved bytes on a GPU). Step times need a quiet machine.
About eight minutes on two quiet cores; what is measured so far is kept in --json after every run.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from benchmarks import workload
from toolkit.config import Config
from toolkit.data.sources import open_table
from toolkit.forecast import history
from toolkit.forecast.forecast import Correction, Forecast, forecast
from toolkit.forecast.scene import Unknown, scene_for, scene_of_run
from toolkit.runs.machine import Machine, machine
from toolkit.runs.rundir import RunDir, create_run
from toolkit.runs.supervisor import Supervisor
from toolkit.validation import parse

SHAPES: dict[str, dict[str, int]] = {
    "1M": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "16M": {
        "vocab_size": 8192,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "60M": {
        "vocab_size": 8192,
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 9,
        "num_attention_heads": 10,
        "num_key_value_heads": 5,
    },
    "110M": {
        "vocab_size": 8192,
        "hidden_size": 768,
        "intermediate_size": 2560,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}
STEPS = 6
LENGTH = 512  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Case:
    """One config of the grid."""

    model: str
    data: str
    settings: dict[str, Any]

    @property
    def words(self) -> str:
        return f"{self.model} {self.data} " + " ".join(f"{k}={v}" for k, v in self.settings.items())


def cases() -> Iterator[Case]:
    """At least 24: every model with long and short rows, both precisions, and what else changes memory."""
    for model, data, bf16 in itertools.product(("1M", "16M", "60M"), ("narrow", "wide"), (False, True)):
        yield Case(model, data, {"bf16": bf16, "batch": 8})
    for model, bf16 in itertools.product(("16M", "60M", "110M"), (False, True)):
        yield Case(model, "wide", {"bf16": bf16, "batch": 4, "checkpointing": True})
    for batch, length in ((1, 1024), (2, 1024), (16, 256)):
        yield Case("16M", "wide", {"bf16": False, "batch": batch, "length": length})
    yield Case("110M", "narrow", {"bf16": False, "batch": 2})
    yield Case("110M", "narrow", {"bf16": True, "batch": 4})
    yield Case("60M", "narrow", {"bf16": False, "batch": 8, "quantize": True})
    yield Case("60M", "narrow", {"bf16": True, "batch": 8, "dropout": 0.1})
    yield Case("16M", "narrow", {"bf16": False, "batch": 4, "accumulation": 2, "targets": ["q_proj", "v_proj"]})


def config_of(case: Case, folder: Path, save_dir: Path) -> Config:
    chosen = case.settings
    bf16 = bool(chosen.get("bf16"))
    return parse({
        "save_dir": str(save_dir),
        "data": {"file_type": "json", "path": str(folder / f"{case.data}.jsonl"), "prompt": "{instruction}",
                 "prompt_stub": "{output}", "test_size": 2,
                 "train_size": STEPS * chosen["batch"] * chosen.get("accumulation", 1)},
        "model": {"hf_model_ckpt": str(folder / case.model), "quantize": bool(chosen.get("quantize")),
                  "bitsandbytes": {"bnb_4bit_compute_dtype": "bfloat16" if bf16 else "float32"}},
        "lora": {"lora_dropout": chosen.get("dropout", 0.0), "target_modules": chosen.get("targets", ["all-linear"])},
        "training": {
            "training_args": {
                "num_train_epochs": 1, "bf16": bf16, "per_device_train_batch_size": chosen["batch"],
                "gradient_accumulation_steps": chosen.get("accumulation", 1),
                "gradient_checkpointing": bool(chosen.get("checkpointing")), "eval_steps": 10_000,
                "logging_steps": 1,
            },
            "sft_args": {"max_seq_length": chosen.get("length", LENGTH)},
        },
        "inference": {"max_new_tokens": 2},
    })  # fmt: skip


def carry_out(config: Config, table: Any, supervisor: Supervisor) -> tuple[RunDir, dict[str, float]]:
    """The run, and what its events measured: peak bytes, seconds of an average step."""
    run = create_run(config, table)
    if (spare := supervisor._spare) is not None:
        spare._not_before = 0.0
        while spare.ready_server() is None:
            spare.keep()
            time.sleep(0.2)
    end = supervisor.run_to_end(run, lambda status: None)
    if end.state != "finished":
        raise SystemExit(f"{run.id} ended as {end.state}: {run.log_path.read_text()[-2000:]}")
    events = [json.loads(line) for line in run.events_path.read_text().splitlines()]
    logs = [event for event in events if event["kind"] == "log"]
    tokens = [b["tokens"] - a["tokens"] for a, b in itertools.pairwise(logs)]
    seconds = [count / log["tokens_per_second"] for count, log in zip(tokens, logs[1:], strict=True)]
    plan = next(event for event in events if event["kind"] == "plan")
    on_gpu = "gpu_peak_bytes" in logs[-1]
    peak = logs[-1]["gpu_peak_bytes" if on_gpu else "peak_bytes"]
    return run, {"peak": peak, "step": statistics.mean(seconds), "process": plan["process_bytes"]}


def predict(config: Config, table: Any, here: Machine, known: Correction | None = None) -> Forecast:
    scene = scene_for(config, table, here)
    assert not isinstance(scene, Unknown), scene.why
    return forecast(config, scene, known)


def measure(chosen: list[Case], folder: Path, kept: Path | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    supervisors = [Supervisor(folder / f"half{half}") for half in (0, 1)]
    for at, case in enumerate(chosen):
        save_dir = folder / f"half{at % 2}"
        config = config_of(case, folder, save_dir)
        table = open_table(config.data, save_dir)
        here = machine(save_dir)
        before = predict(config, table, here)
        run, real = carry_out(config, table, supervisors[at % 2])
        seen = history.observe(run, here)
        exact = scene_of_run(run, here)
        assert not isinstance(exact, Unknown)
        row = {
            "case": case.words, "config": config, "table": table, "half": at % 2, "seen": seen, **real,
            "predicted_peak": before.memory.peak, "predicted_step": before.step_seconds, "memory": before.memory,
            "rows_as_they_were_peak": forecast(config, exact).memory.peak,
        }  # fmt: skip
        found.append(row)
        print(line(row), flush=True)
        if kept is not None:
            kept.write_text(json.dumps([plain(row) for row in found], indent=1) + "\n")
    for supervisor in supervisors:
        if supervisor._spare is not None:
            supervisor._spare.end()
    return found


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of one config."""
    names = (
        "case",
        "peak",
        "predicted_peak",
        "calibrated_peak",
        "process",
        "step",
        "predicted_step",
        "calibrated_step",
    )
    return {name: row[name] for name in names if name in row}


def calibrated(found: list[dict[str, Any]], folder: Path) -> None:
    """Predict each config again, from the runs of the other half alone."""
    for row in found:
        history.RUNS, history.A_LOOK = 100, 100
        other = folder / f"half{1 - row['half']}"
        here = machine(folder / f"half{row['half']}")
        known = history.correction(other, predict(row["config"], row["table"], here), here)
        after = predict(row["config"], row["table"], here, known)
        row["calibrated_step"], row["calibrated_peak"] = after.step_seconds, after.memory.peak


def line(row: dict[str, Any]) -> str:
    memory = row["memory"]
    parts = " ".join(f"{name} {getattr(memory, name) / 1e6:.0f}" for name in ("weights", "activations", "logits"))
    return (
        f"{row['case']:58} peak {row['peak'] / 1e6:6.0f} MB, predicted {row['predicted_peak'] / row['peak']:.2f} of it"
        f" (process {row['process'] / 1e6:.0f}; {parts}); step {row['step']:.3f} s,"
        f" predicted {row['predicted_step'] / row['step']:.2f} of it"
    )


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    def off(name: str, real: str) -> list[float]:
        return [row[name] / row[real] - 1 for row in found]

    def figures(errors: list[float]) -> dict[str, float]:
        return {
            "median_off": statistics.median(map(abs, errors)),
            "worst_under": min(errors),
            "worst_over": max(errors),
        }

    return {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "load_average": psutil.getloadavg()[0],
        "configs": len(found),
        "memory": figures(off("predicted_peak", "peak")),
        "memory_calibrated": figures(off("calibrated_peak", "peak")),
        "time_before": figures(off("predicted_step", "step")),
        "time_calibrated": figures(off("calibrated_step", "step")),
        "runs": [plain(row) for row in found],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, default=0, help="every n-th config alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    workload.make(folder)
    for name, shape in SHAPES.items():
        workload.write_random_model(folder / name, folder / "model", shape)
    found = measure(list(cases())[:: given.only or 1], folder, given.json)
    calibrated(found, folder)
    text = json.dumps(summary(found), indent=1)
    print(text)
    if given.json:
        given.json.write_text(text + "\n")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
