"""From a file to tokens: what each stage takes, beside the libraries that people use for it.

    python -m benchmarks.reading [--rows 100000] [--formats csv,jsonl,parquet] [--trl-rows 10000] [--json FILE]

The same rows (about 600 bytes) as CSV, JSONL and Parquet. Read and checked, formatted, split, tokenised with labels and
hard stops, and taken from the cache by a second run; beside `datasets.load_dataset` + `map`, pandas, and TRL's own
preparation. Every contender is a process of its own: CPU-seconds of its stage, peak memory of the process by wait4.
Tokenising does not depend on the format and is measured on the first one; TRL's on the first `--trl-rows` rows of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import workload

ROOT = Path(__file__).resolve().parent.parent
PROMPT, STUB = "Answer this message.\n\n{instruction}\n", "{output}"
DIFFERENT, LENGTH = 2_000, 1_024
Row = tuple[str, str]


def rows(count: int) -> Iterator[Row]:
    """(instruction, output): made-up words, about 600 characters together, each row with a number of its own."""
    dice = random.Random(workload.SEED)
    vocabulary = workload.words(random.Random(workload.SEED))
    texts = []
    for _ in range(DIFFERENT):
        total = max(24, int(dice.gauss(93, 20)))
        asked = int(total * dice.uniform(0.3, 0.7))
        texts.append([workload.text(dice, vocabulary, part) for part in (asked, total - asked)])
    for at in range(count):
        first, second = texts[at % DIFFERENT]
        yield f"{at}: {first}", second


def write(path: Path, kind: str, count: int) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        schema = pa.schema([("instruction", pa.string()), ("output", pa.string())])
        with pq.ParquetWriter(path, schema) as out:
            some: list[Row] = []
            for row in rows(count):
                some.append(row)
                if len(some) == 16_384:
                    out.write_table(pa.table(list(zip(*some, strict=True)), schema=schema))
                    some = []
            if some:
                out.write_table(pa.table(list(zip(*some, strict=True)), schema=schema))
        return
    with path.open("w", newline="") as file:
        if kind == "csv":
            csv.writer(file).writerow(("instruction", "output"))
            csv.writer(file).writerows(rows(count))
        else:
            file.writelines(json.dumps({"instruction": a, "output": b}) + "\n" for a, b in rows(count))


class Stages(dict[str, dict[str, float]]):
    """Seconds of each stage of one contender."""

    def time(self, name: str, work: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.monotonic()
        found = work()
        self[name] = {"cpu_s": time.process_time() - cpu, "wall_s": time.monotonic() - wall}
        return found


def settings(folder: Path, source: Path) -> Any:
    from toolkit.config import Config

    kind = "csv" if source.suffix == ".csv" else "json"
    data = {"file_type": kind, "path": str(source), "prompt": PROMPT, "prompt_stub": STUB}
    sft = {"sft_args": {"max_seq_length": LENGTH}}
    model = {"hf_model_ckpt": str(folder / "model")}
    return Config.model_validate({"save_dir": str(folder), "data": data, "model": model, "training": sft})


def ours_read(folder: Path, source: Path, count: int) -> Stages:
    """The reading process itself: limits, checks, and the table on disk."""
    from toolkit.data.readers.read_file import ReadRequest, read_file_to_table

    made, stages = folder / "table", Stages()
    made.mkdir(exist_ok=True)
    kind = {".jsonl": "json"}.get(source.suffix, source.suffix[1:])
    request = ReadRequest(str(source), str(made), kind, "0" * 64, source.name)
    stages.time("read and checked", lambda: read_file_to_table(request))
    return stages


def ours_format(folder: Path, source: Path, count: int) -> Stages:
    from toolkit.data.examples.renderers import renderer_of
    from toolkit.data.examples.split import plan_split
    from toolkit.data.table import load_table

    stages, config = Stages(), settings(folder, source)
    table = load_table(folder / "table" / "table.parquet")
    renderer = renderer_of(config.data, table.columns)

    def formatted() -> int:
        done = 0
        for part in table.batches(renderer.columns_needed):
            cells = {name: part.column(name).to_pylist() for name in part.schema.names}
            done += sum(1 for _ in renderer.examples(cells, part.num_rows))
        return done

    assert stages.time("formatted", formatted) == count
    plan = stages.time("split", lambda: plan_split(table, config.data))
    assert len(plan.train) + len(plan.test) == count
    return stages


def ours_tokenise(folder: Path, source: Path, count: int) -> Stages:
    """What a run does with its table, twice: the second time the tokens come from the cache."""
    from toolkit.runs.run_dir import RunDir
    from toolkit.worker.models.load import load_tokenizer
    from toolkit.worker.tokens.prepared_rows import open_row_source, read_splits, write_splits

    stages, config = Stages(), settings(folder, source)
    tokenizer = load_tokenizer(config)
    for name, stage in (("first", "tokenised with labels"), ("second", "tokenised again")):
        run = RunDir(folder / "runs" / name)
        run.data_dir.mkdir(parents=True)
        os.link(folder / "table" / "table.parquet", run.source_path)

        def prepared(run: RunDir = run) -> Any:
            write_splits(run, config, open_row_source(run, config), tokenizer, LENGTH, lambda *_, **__: None)
            return read_splits(run)

        train, test = stages.time(stage, prepared)
        assert len(train) + len(test) == count
    return stages


def by_datasets(folder: Path, source: Path, count: int) -> Stages:
    import datasets

    datasets.disable_progress_bars()
    stages = Stages()
    kind = "json" if source.suffix == ".jsonl" else source.suffix[1:]
    cache = str(folder / "hf")
    loaded = stages.time("read", lambda: datasets.load_dataset(
        kind, data_files=str(source), split="train", cache_dir=cache))  # fmt: skip
    assert len(loaded) == count
    stages.time("formatted", lambda: loaded.map(
        lambda row: {"prompt": PROMPT.format(**row), "completion": STUB.format(**row)}))  # fmt: skip
    stages.time("split", lambda: loaded.train_test_split(0.25, seed=0))
    return stages


def by_pandas(folder: Path, source: Path, count: int) -> Stages:
    import pandas

    stages = Stages()
    readers: dict[str, Callable[[], Any]] = {
        ".csv": lambda: pandas.read_csv(source),
        ".jsonl": lambda: pandas.read_json(source, lines=True),
        ".parquet": lambda: pandas.read_parquet(source),
    }
    frame = stages.time("read", readers[source.suffix])
    assert len(frame) == count
    stages.time("formatted", lambda: [
        (PROMPT.format(instruction=a, output=b), STUB.format(instruction=a, output=b))
        for a, b in zip(frame["instruction"], frame["output"], strict=True)
    ])  # fmt: skip
    order = stages.time("split", lambda: frame.sample(frac=1, random_state=0))
    assert len(order) == count
    return stages


def by_trl(folder: Path, source: Path, count: int) -> Stages:
    """SFTTrainer's own preparation of prompt and completion as messages, as its documentation has it."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    stages = Stages()

    class Timed(SFTTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, *args: Any, **named: Any) -> Any:
            return stages.time("tokenised with labels", lambda: super(Timed, self)._prepare_dataset(*args, **named))

    first = [row for row, _ in zip(rows(count), range(count), strict=True)]
    data = datasets.Dataset.from_list([
        {"prompt": [{"role": "user", "content": PROMPT.format(instruction=a)}],
         "completion": [{"role": "assistant", "content": b}]} for a, b in first
    ])  # fmt: skip
    arguments = SFTConfig(output_dir=str(folder / "trl"), max_length=LENGTH, use_cpu=True, bf16=False, report_to="none")
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    made = Timed(model=model, args=arguments, train_dataset=data,
                 processing_class=AutoTokenizer.from_pretrained(folder / "model"))  # fmt: skip
    assert len(made.train_dataset) == count
    return stages


CONTENDERS: dict[str, Callable[[Path, Path, int], Stages]] = {
    "ours: read": ours_read, "ours: format": ours_format, "ours: tokenise": ours_tokenise,
    "datasets": by_datasets, "pandas": by_pandas, "trl": by_trl,
}  # fmt: skip


def measured(name: str, folder: Path, source: Path, count: int) -> list[dict[str, Any]]:
    """One contender in its own process -> a line for each of its stages."""
    argv = [sys.executable, "-m", "benchmarks.reading", "--one", name, str(folder), str(source), str(count)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "true"}
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    output = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    if status != 0:
        return [{"contender": name, "format": source.suffix[1:], "stage": "failed", "status": status}]
    lines = []
    for stage, took in json.loads(output.splitlines()[-1]).items():
        told = {"contender": name.split(":")[0], "format": source.suffix[1:], "stage": stage, "rows": count, **took}
        told |= {"rows_per_cpu_s": count / max(took["cpu_s"], 1e-9), "peak_mb": used.ru_maxrss / 1024}
        lines.append(told)
        print(f"{told['contender']:9} {told['format']:8} {stage:22} {count:>9,} rows {took['cpu_s']:8.2f} CPU-s "
              f"{told['rows_per_cpu_s']:>10,.0f} rows/CPU-s {told['peak_mb']:6.0f} MB", flush=True)  # fmt: skip
    return lines


def measure(count: int, formats: list[str], trl_rows: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, "benchmarks/workload.py", scratch], cwd=ROOT, check=True, capture_output=True,
                       env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
        for nth, kind in enumerate(formats):
            source = folder / f"rows.{kind}"
            write(source, kind, count)
            print(f"{source.name}: {source.stat().st_size / 1e6:,.0f} MB", flush=True)
            names = ["ours: read", "ours: format", "datasets", "pandas"]
            names[2:2] = ["ours: tokenise"] if nth == 0 else []
            for name in names:
                found += measured(name, folder, source, count)
            if nth == 0:
                found += measured("trl", folder, source, min(count, trl_rows))
            source.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--formats", default="csv,jsonl,parquet")
    parser.add_argument("--trl-rows", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        name, folder, source, count = asked.one
        print(json.dumps(CONTENDERS[name](Path(folder), Path(source), int(count))))
        return
    found = measure(asked.rows, asked.formats.split(","), asked.trl_rows)
    speed = {line["contender"]: line["rows_per_cpu_s"] for line in found if line["stage"] == "tokenised with labels"}
    if {"ours", "trl"} <= speed.keys():
        print(f"tokenised with labels: {speed['ours'] / speed['trl']:.1f} times TRL's rows a CPU-second")
    if asked.json:
        machine = f"{platform.platform()}, {os.cpu_count()} cores"
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps({"date": str(date.today()), "machine": machine, "lines": found}, indent=1))


if __name__ == "__main__":
    main()
