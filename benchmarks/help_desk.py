"""A help desk on a real model: 400 of the bundled tickets, six labels, from training to certified exports.

    python -m benchmarks.help_desk FOLDER [--model FOLDER] [--steps train,chat,...] [--json FILE]

Runs the product's own command line, with the settings as the form has them when a user chooses model, file and the two
templates. `--steps help` lists the steps; each is kept in FOLDER/steps.json and not measured again. A step that was
stopped (SIGTERM, Ctrl-C) goes on where it was, and its seconds add up. CPU-seconds are those of the processes that a
step has started; wall seconds depend on what else the machine does, and "load" is the load when the step ended.
--model: a folder such as that of the tests marked `real`, which is used without an argument.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FTK_SPARE"] = "0"

import openai
import psutil
import yaml

from tests.fakes.real_model import convert_real_model
from toolkit.config import InferenceConfig
from toolkit.demo_data import samples
from toolkit.evaluation.evaluation_dir import list_evaluations
from toolkit.evaluation.statistics.results import read_evaluation_results
from toolkit.export.export_state import read_export_state
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import read_run_status
from toolkit.services import engine_client
from toolkit.services.engine_http import Done
from toolkit.services.engine_requests import stream_chat

ROWS, ASKED = 400, 12
FORMS = ("adapter", "merged-bf16", "gguf", "gguf-q8", "gguf-q6", "gguf-q5", "gguf-q4")
QLORA_STEPS, QLORA_TESTED = 12, 8
"""Steps and test rows of the run in 4 bits: a CPU computes those far more slowly than float32."""
END_SECONDS = 60  # for a run to save its checkpoint when the script is stopped


class HelpDesk:
    """The files of one measurement."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.tickets = folder / "tickets.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.tickets.write_text(json.dumps(samples.tickets()[:ROWS]))

    def settings(self, name: str, **args: Any) -> dict[str, Any]:
        """Return what a user enters; everything else stays at its default."""
        return {
            "save_dir": str(self.folder / name),
            "data": {
                "file_type": "json", "path": str(self.tickets), "prompt": "{ticket}", "prompt_stub": "{category}",
            },
            "model": {"hf_model_ckpt": str(self.model)},
            "training": {"training_args": args},
        }  # fmt: skip

    def run_of(self, name: str) -> RunDir:
        (run,) = list_runs(self.folder / name)
        return run

    def train(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Train a run, or resume it; return its scores."""
        path = self.folder / f"{name}.yml"
        path.write_text(yaml.safe_dump(settings))
        begun = list_runs(self.folder / name) if (self.folder / name).exists() else []
        at = ("--save-dir", str(self.folder / name))
        command = ("resume", begun[0].id, *at) if begun else ("run", str(path))
        ended = {} if begun and read_run_status(begun[0]).state == "finished" else call(*command)
        status = read_run_status(self.run_of(name))
        wanted = ("rows", "exact_match_base", "exact_match")
        scores = {key: status.scores[key] for key in wanted if key in status.scores}
        return {**ended, "state": status.state, "steps": status.step, "training_s": status.elapsed_s, **scores}

    def chat(self) -> dict[str, Any]:
        """Ask tickets through the client `openai` and as the playground does; count what differs."""
        run = self.run_of("lora")
        info = engine_client.start_engine(run.save_dir, run.id)
        rows = samples.tickets()[ROWS : ROWS + ASKED]  # tickets that are in no split
        equal = right = pieces = 0
        try:
            engine_client.wait_for_engine(info)
            began = time.perf_counter()
            with openai.OpenAI(base_url=f"{info.url}/v1", api_key=info.token, max_retries=0) as api:
                for row in rows:
                    asked = [{"role": "user", "content": row["ticket"]}]
                    stream = api.chat.completions.create(
                        model=run.id,
                        messages=asked,
                        max_tokens=16,
                        stream=True,  # type: ignore[arg-type]
                    )
                    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
                    ended = list(stream_chat(info, run.id, asked, InferenceConfig(max_new_tokens=16)))[-1]  # type: ignore[arg-type]
                    assert isinstance(ended, Done)
                    equal += "".join(parts) == ended.text
                    right += "".join(parts) == row["category"]
                    pieces += sum(bool(part) for part in parts)
            seconds = time.perf_counter() - began
        finally:
            engine_client.stop_engine(info)
        return {"asked": len(rows), "same_as_playground": equal, "right": right, "pieces": pieces, "wall_s": seconds}

    def evaluate(self, name: str) -> dict[str, Any]:
        """Compare adapter and base on the run's test rows; return the measures with their verdicts."""
        run = self.run_of(name)
        ended = call("evaluate", run.id, "--save-dir", str(run.save_dir))
        newest = next(iter(list_evaluations(run)), None)
        results = read_evaluation_results(newest.results_path) if newest else None
        if results is None:
            return ended
        measures = {
            figure.measure: {
                "rows": figure.rows,
                **{"base" if model == "base" else "adapter": value.value for model, value in figure.models.items()},
                "verdicts": [difference.verdict for difference in figure.differences.values()],
            }
            for figure in results.figures
        }
        said = [sentence for sentences in results.sentences.values() for sentence in sentences]
        return {**ended, "answered": results.answered, "measures": measures, "said": said}

    def export(self, name: str, form: str) -> dict[str, Any]:
        """Export a form; return its verdict."""
        run = self.run_of(name)
        ended = call("export", run.id, "--form", form, "--save-dir", str(run.save_dir))
        state = read_export_state(run, form)
        found = state.certificate
        verdict = {"state": state.state, "bytes": state.bytes, **ended}
        if found is not None:
            shown = {"verdict": found.verdict, "drift": found.drift, "mean_drift": found.mean_drift}
            verdict |= {**shown, "summary": found.summary, "failed": [str(check) for check in found.failures]}
        return verdict


def call(*command: str) -> dict[str, Any]:
    """Run a command of the toolkit and print its last lines; return its exit code. Ctrl-C is passed on to it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "toolkit", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = child.communicate()
    except KeyboardInterrupt:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=END_SECONDS)
        raise
    print(*[line for line in said.splitlines() if line.strip()][-12:], sep="\n", flush=True)
    return {"exit": child.returncode}


def list_steps(desk: HelpDesk) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the steps by name, in order."""
    qlora = desk.settings("qlora", max_steps=QLORA_STEPS)
    qlora["data"].update(test_size=QLORA_TESTED)
    qlora["model"].update(quantize=True)
    return {
        "train": lambda: desk.train("lora", desk.settings("lora", num_train_epochs=1)),
        "chat": desk.chat,
        "evaluate": lambda: desk.evaluate("lora"),
        **{f"export {form}": lambda form=form: desk.export("lora", form) for form in FORMS},  # type: ignore[misc]
        "train qlora": lambda: desk.train("qlora", qlora),
        "export qlora adapter": lambda: desk.export("qlora", "adapter"),
        "export qlora merged-bf16": lambda: desk.export("qlora", "merged-bf16"),
    }


class CpuWatch(threading.Thread):
    """CPU-seconds of all processes that this one starts, and of theirs. Some outlive their parents."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self.seconds: dict[psutil.Process, float] = {}

    def run(self) -> None:
        """Look once a second: a process loses at most its last one."""
        while not self.ended.wait(1.0):
            for process in {*self.seconds, *psutil.Process().children(recursive=True)}:
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    self.seconds[process] = times.user + times.system


class Steps:
    """The figures of the steps, in a file, and the seconds that steps took before they were stopped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def list_done(self) -> dict[str, Any]:
        """Return the figures of the steps that have ended."""
        return {name: figures for name, figures in self.kept.items() if "load" in figures}

    def measure(self, name: str, step: Callable[[], dict[str, Any]]) -> None:
        """Carry out a step and keep its figures; of one that is stopped, its seconds."""
        began, spent, watch = time.perf_counter(), self.kept.get(name, {}), CpuWatch()
        found: dict[str, Any] = {}
        watch.start()
        try:
            found = {**step(), "load": round(os.getloadavg()[0], 1)}
        finally:
            watch.ended.set()
            watch.join()
            wall = spent.get("wall_s", 0.0) + time.perf_counter() - began
            cpu = spent.get("cpu_s", 0.0) + sum(watch.seconds.values())
            attempts = spent.get("attempts", 0) + 1
            took = {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "attempts": attempts}
            self.kept[name] = {**took, **found}
            self.path.write_text(json.dumps(self.kept, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", help="names, separated by commas; without it, all")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    desk = HelpDesk(chosen.folder.absolute(), chosen.model or convert_real_model())
    os.environ.setdefault("FTK_STATE_DIR", str(desk.folder / "state"))
    kept, steps = Steps(desk.folder / "steps.json"), list_steps(desk)
    wanted = chosen.steps.split(",") if chosen.steps else list(steps)
    if not set(wanted) <= set(steps):
        parser.error(f"steps: {', '.join(steps)}")
    for name in wanted:
        if name not in kept.list_done():
            print(f"\n== {name}", flush=True)
            kept.measure(name, steps[name])
    about = {"date": date.today().isoformat(), "machine": platform.machine(), "cores": os.cpu_count(), "rows": ROWS}
    found = json.dumps({**about, "steps": kept.list_done()}, indent=1)
    print(found)
    if chosen.json:
        chosen.json.write_text(found + "\n")


if __name__ == "__main__":
    main()
