"""Batched evaluation beside one question at a time: answers a second, on the bundled demo model or a wider one.

    python -m benchmarks.evaluation [--model demo|wide] [--rows 128] [--rounds 3] [--threads 1] [--json evaluation.json]

Both sides are the product's own `worker.asking.ask` over the same rows of the orders sample, base and a random adapter,
answers and losses; one at a time is the same code with a batch of one. In turns, so that whatever else the machine does
falls on both; CPU-seconds say what remains of the ratio when others use the cores. The texts are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.engine import build_model
from tests.fakes.engine_runs import make_config, write_adapter
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.evaluation import evaluation_dir
from toolkit.evaluation.answers import AnswerKey, AnswerLog, EvaluationAnswer, read_recorded_answers
from toolkit.evaluation.evaluation_dir import Evaluation, EvaluationSpec
from toolkit.evaluation.questions import EvaluationQuestion, make_questions
from toolkit.runs.model_names import BASE
from toolkit.runs.run_dir import RunDir, create_run
from toolkit.worker.answering import evaluation_asker
from toolkit.worker.process.stop import StopSignal
from toolkit.worker.serving.engine import Engine

SLOWEST_AIM = 3.0


@dataclass(frozen=True)
class Setup:
    run: RunDir
    config: Config
    evaluation: Evaluation
    engine: Engine
    asked: list[EvaluationQuestion]

    @property
    def models(self) -> tuple[str, str]:
        return BASE, self.run.id


def set_up(shape: str, rows: int, folder: Path) -> Setup:
    model = "bundled:demo-model" if shape == "demo" else str(build_model(shape, folder / "model"))
    config = Config.model_validate({**make_config(folder / "save", model).model_dump(), "data": {"test_size": rows}})
    run = create_run(config, open_table(config.data, folder / "save"))
    write_adapter(run, config, seed=1)
    evaluation = evaluation_dir.create_evaluation(run, EvaluationSpec(rows=rows))
    engine = evaluation_asker.load_evaluation_engine(
        evaluation, evaluation_dir.read_evaluation_spec(evaluation), lambda _: None
    )
    return Setup(run, config, evaluation, engine, make_questions(evaluation))


def ask(setup: Setup, batch: int, turn: int) -> tuple[float, float, Mapping[AnswerKey, EvaluationAnswer]]:
    """(answers a second, answers a CPU-second, the answers)"""
    evaluation_asker.MAX_BATCH_ROWS = batch
    path = setup.evaluation.path / f"answers-{batch}-{turn}.jsonl"
    log, stop = AnswerLog(path), StopSignal(setup.evaluation.path / "never")
    spec = evaluation_dir.read_evaluation_spec(setup.evaluation)
    began, used = time.perf_counter(), time.process_time()
    evaluation_asker.answer_remaining_questions(
        setup.engine,
        setup.config,
        spec,
        setup.asked,
        setup.models,
        read_recorded_answers(path),
        log,
        stop,
        lambda *_: None,
    )
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    log.close()
    count = len(setup.asked) * 2
    return count / seconds, count / cpu, read_recorded_answers(path).answers


def measure(shape: str, rows: int, rounds: int, folder: Path) -> dict[str, object]:
    setup = set_up(shape, rows, folder)
    batched = evaluation_asker.MAX_BATCH_ROWS
    ask(setup, batched, -1)  # warms up
    rates: dict[int, list[tuple[float, float]]] = {batched: [], 1: []}
    differing = 0
    for turn in range(rounds):
        texts = []
        for batch, found in rates.items():
            rate, cpu_rate, answers = ask(setup, batch, turn)
            found.append((rate, cpu_rate))
            texts.append({key: one.text for key, one in answers.items()})
        differing = sum(texts[0][key] != texts[1][key] for key in texts[1])
    many, one = (statistics.median(rate for rate, _ in rates[size]) for size in (batched, 1))
    cpu_many, cpu_one = (statistics.median(rate for _, rate in rates[size]) for size in (batched, 1))
    return {
        "model": shape, "rows": rows, "batch": batched, "rounds": rounds, "answers_per_second_batched": many,
        "answers_per_second_one_by_one": one, "ratio": many / one, "answers_per_cpu_second_batched": cpu_many,
        "answers_per_cpu_second_one_by_one": cpu_one, "cpu_ratio": cpu_many / cpu_one,
        "aim": SLOWEST_AIM, "texts_that_differ": differing,
        "answers": 2 * rows, "threads": torch.get_num_threads(), "machine": platform.machine(),
        "load": os.getloadavg()[0], "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", choices=["demo", "wide"], default="demo")
    options.add_argument("--rows", type=int, default=128)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, help="default: as many as PyTorch takes")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(chosen.model, chosen.rows, chosen.rounds, Path(folder))
    for name, value in found.items():
        print(f"{name:34} {value:10.3f}" if isinstance(value, float) else f"{name:34} {value}")
    print(json.dumps(found))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
