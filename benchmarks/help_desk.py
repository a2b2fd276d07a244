"""A help desk on a real model: 400 of the bundled tickets, six labels, from training to certified exports.

    python -m benchmarks.help_desk FOLDER --model FOLDER [--steps train,chat,...] [--json FILE]

Runs the product's own command line, with the settings as the form has them when a user chooses model, file and the two
templates. Each step is kept in FOLDER/steps.json, so the script goes on where it was stopped; what is there already is
not measured again. CPU-seconds are those of a step's processes. --model: a folder such as that of the tests marked
`real`, which is used without an argument.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["FTK_SPARE"] = "0"

import openai
import yaml

from tests.fakes.real_model import convert_real_model
from toolkit.config import InferenceConfig
from toolkit.demo_data import samples
from toolkit.export.export_state import read_export_state
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.runs.status import read_run_status
from toolkit.services import engine_client
from toolkit.services.engine_http import Done
from toolkit.services.engine_requests import stream_chat

ROWS, ASKED = 400, 12
FORMS = ("adapter", "merged-bf16", "gguf", "gguf-q8")


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
        figures = {} if begun and read_run_status(begun[0]).state == "finished" else call(*command)
        status = read_run_status(self.run_of(name))
        wanted = ("rows", "exact_match_base", "exact_match")
        scores = {key: status.scores[key] for key in wanted if key in status.scores}
        return {**figures, "state": status.state, "steps": status.step, "training_s": status.elapsed_s, **scores}

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

    def export(self, name: str, form: str) -> dict[str, Any]:
        """Export a form; return its verdict."""
        run = self.run_of(name)
        figures = call("export", run.id, "--form", form, "--save-dir", str(run.save_dir))
        state = read_export_state(run, form)
        found = state.certificate
        verdict = {"state": state.state, "bytes": state.bytes, **figures}
        if found is not None:
            shown = {"verdict": found.verdict, "drift": found.drift, "mean_drift": found.mean_drift}
            verdict |= {**shown, "summary": found.summary, "failed": [str(check) for check in found.failures]}
        return verdict


def call(*command: str) -> dict[str, Any]:
    """Run a command of the toolkit and print its last lines; return its seconds, and those of its processes."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "toolkit", *command], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-12:]
    print(*said, sep="\n", flush=True)
    wall = round(time.perf_counter() - began, 1)
    return {"exit": done.returncode, "wall_s": wall, "cpu_s": round(cpu, 1)}


def list_steps(desk: HelpDesk) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the steps by name, in order."""
    qlora = desk.settings("qlora", max_steps=12)
    qlora["model"].update(quantize=True)
    return {
        "train": lambda: desk.train("lora", desk.settings("lora", num_train_epochs=1)),
        "chat": desk.chat,
        **{f"export {form}": lambda form=form: desk.export("lora", form) for form in FORMS},  # type: ignore[misc]
        "train qlora": lambda: desk.train("qlora", qlora),
        "export qlora adapter": lambda: desk.export("qlora", "adapter"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--steps", help="names, separated by commas; without it, all")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    desk = HelpDesk(chosen.folder.absolute(), chosen.model or convert_real_model())
    os.environ.setdefault("FTK_STATE_DIR", str(desk.folder / "state"))
    kept = desk.folder / "steps.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    steps = list_steps(desk)
    for name in chosen.steps.split(",") if chosen.steps else steps:
        if name not in found:
            print(f"\n== {name}", flush=True)
            found[name] = {**steps[name](), "load": os.getloadavg()[0]}
            kept.write_text(json.dumps(found, indent=1))
    about = {"date": date.today().isoformat(), "machine": platform.machine(), "cores": os.cpu_count(), "rows": ROWS}
    print(json.dumps({**about, "steps": found}, indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps({**about, "steps": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
