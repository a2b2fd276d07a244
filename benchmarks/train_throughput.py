"""Tokens per second of this project beside a plain TRL script, LLaMA-Factory, and a loop written by hand.

    PYTHONPATH=. python -m benchmarks.train_throughput [--rows 64] [--rounds 1] [--threads 1]
        [--llamafactory PYTHON | --install-llamafactory FOLDER] [--json FILE]

The same 16 M Llama from random weights, the same rows, LoRA of rank 16 on every linear map, batches of 8, one epoch;
every contender in a process of its own, one after the other, round by round, so that a busy moment hits all of them.
Tokens are real ones, without padding. On a machine that is shared, read tokens per CPU-second; wall figures are printed
with the load. What can't be measured here (no GPU, no LLaMA-Factory) is said in the output.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psutil

from benchmarks import workload
from toolkit.system.spawn import library_environment

ROOT = Path(__file__).resolve().parent.parent
KINDS, PRECISIONS = ("narrow", "wide"), ("bf16", "fp32")
OWN = ("ours", "trl", "hand")
FOREIGN = ("llamafactory", "llamafactory-best")
NO_LLAMAFACTORY = "LLaMA-Factory was not measured: {why}"


def install_llamafactory(folder: Path) -> Path | str:
    """The python of a new environment with LLaMA-Factory and this torch's version, or why there is none.

    Nothing of this environment is linked into that one: pip would write through the link and break both.
    """
    if folder.resolve().is_relative_to(ROOT):
        return f"{folder} is inside the repository: name a folder outside"
    python = folder / "bin" / "python"
    done = folder / ".complete"
    if done.exists():
        return python
    if folder.exists() and any(folder.iterdir()):
        return f"{folder} holds something else, or an installation that was broken off: name a new folder"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    same_torch = folder / "constraints.txt"
    same_torch.write_text(f"torch=={importlib.metadata.version('torch').partition('+')[0]}\n")
    asked = subprocess.run(
        [str(python), "-m", "pip", "install", "-q", "-c", str(same_torch), "torch", "llamafactory"],
        capture_output=True, text=True, timeout=3600,
    )  # fmt: skip
    if asked.returncode:
        return " ".join(line for line in asked.stderr.splitlines() if "ERROR" in line)[-600:] or "pip failed"
    # wheels for another torch: the package imports them and needs neither for text
    subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio"], check=True)
    Path(sysconfig.get_path("purelib", vars={"base": str(folder)}), "torchaudio.py").write_text("")
    done.write_text("")
    return python


def write_foreign_data(folder: Path, rows: int) -> None:
    """The same rows in LLaMA-Factory's format."""
    info = {}
    for kind in KINDS:
        lines = (folder / f"{kind}.jsonl").read_text().splitlines()[:rows]
        found = [{**json.loads(line), "input": ""} for line in lines]
        (folder / f"{kind}-train.json").write_text(json.dumps(found))
        info[f"{kind}-train"] = {"file_name": f"{kind}-train.json"}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def run(python: Path, name: str, folder: Path, kind: str, precision: str, rows: int, threads: int, *more: str) -> Any:
    """A contender's figures, or {"failed": last line}."""
    own = library_environment(hub=False) if name == "ours" else os.environ  # as a run of the app gets it
    environment = {
        **own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DISABLE_VERSION_CHECK": "1",
    }  # fmt: skip
    argv = [
        str(python),
        "-m",
        "benchmarks.contender",
        name,
        str(folder),
        kind,
        precision,
        str(rows),
        str(threads),
        *more,
    ]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=7200)
    if done.returncode:
        return {"name": name, "failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def tokens_of(folder: Path, kind: str, rows: int) -> int:
    from benchmarks.contender import prepared, raw_rows

    return int(prepared(folder, raw_rows(folder, kind, rows)[0])[1].tokens)


def measure(folder: Path, given: argparse.Namespace, foreign: Path | None) -> Iterator[dict[str, Any]]:
    here = Path(sys.executable)
    for _ in range(given.rounds):
        for kind in given.kinds:
            tokens = tokens_of(folder, kind, given.rows)
            for precision in given.precisions:
                for name in (*OWN, *(FOREIGN if foreign else ())):
                    python = foreign if name in FOREIGN and foreign else here
                    row = run(python, name, folder, kind, precision, given.rows, given.threads)
                    if "adapter" in row:
                        row |= run(here, "evaluate", folder, kind, precision, given.rows, 1, row["adapter"])
                    row |= {"kind": kind, "precision": precision, "tokens": tokens, "load": psutil.getloadavg()[0]}
                    print(line(row), flush=True)
                    yield row


def line(row: dict[str, Any]) -> str:
    head = f"{row['kind']:7} {row['precision']} {row['name']:18}"
    if "failed" in row:
        return f"{head} failed: {row['failed']}"
    return (
        f"{head} {row['tokens'] / row['cpu_s']:7.0f} tokens/CPU-s {row['tokens'] / row['wall_s']:7.0f} tokens/s"
        f"  peak {row['peak_bytes'] / 1e6:6.0f} MB"
        f"  last loss {row.get('loss', float('nan')):.3f}  held-out loss {row.get('held_out', float('nan')):.4f}"
        f"  (load {row['load']:.1f})"
    )


def summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each workload and precision: medians over the rounds, and ours against each other one."""
    result = []
    good = [row for row in found if "failed" not in row]
    for kind, precision in sorted({(row["kind"], row["precision"]) for row in good}):
        here = [row for row in good if (row["kind"], row["precision"]) == (kind, precision)]
        speed, wall, peak = {}, {}, {}
        for name in {row["name"] for row in here}:
            own = [row for row in here if row["name"] == name]
            speed[name] = statistics.median(row["tokens"] / row["cpu_s"] for row in own)
            wall[name] = statistics.median(row["tokens"] / row["wall_s"] for row in own)
            peak[name] = statistics.median(row["peak_bytes"] for row in own)
        others = [name for name in speed if name != "ours"] if "ours" in speed else []
        result.append({
            "kind": kind, "precision": precision, "tokens_per_cpu_second": speed, "tokens_per_second": wall,
            "peak_bytes": peak,
            "speed_of_ours_over": {name: round(speed["ours"] / speed[name], 2) for name in others},
            "memory_of_ours_over": {name: round(peak["ours"] / peak[name], 2) for name in others},
            "last_loss": {row["name"]: row.get("loss") for row in here},
            "held_out": {row["name"]: row.get("held_out") for row in here},
        })  # fmt: skip
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--llamafactory", type=Path, help="python of an environment that has it")
    parser.add_argument("--install-llamafactory", type=Path, help="folder for such an environment")
    parser.add_argument("--gpu", action="store_true", help="the GPU part alone")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    notes = []
    foreign: Path | str | None = given.llamafactory
    if given.install_llamafactory:
        foreign = install_llamafactory(given.install_llamafactory)
    if not isinstance(foreign, Path):
        notes.append(NO_LLAMAFACTORY.replace("{why}", foreign or "give --llamafactory or --install-llamafactory"))
        foreign = None
    folder = workload.make(Path(tempfile.mkdtemp()))
    write_foreign_data(folder, given.rows)
    found: list[dict[str, Any]] = []
    if not given.gpu:
        for row in measure(folder, given, foreign):
            found.append(row)
            write(given, found, notes, [])  # what was measured stays when the rest is broken off
    from benchmarks import gpu_throughput

    on_gpu = gpu_throughput.measure()
    notes += [on_gpu] if isinstance(on_gpu, str) else []
    body = write(given, found, notes, on_gpu if isinstance(on_gpu, list) else [])
    print(json.dumps({key: body[key] for key in ("summary", "gpu", "not_measured")}, indent=1))


def write(
    given: argparse.Namespace, found: list[dict[str, Any]], notes: list[str], on_gpu: list[dict[str, Any]]
) -> dict[str, Any]:
    """Everything measured so far, into the file that was asked for."""
    body = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB",
        "threads": given.threads, "rows": given.rows, "rounds": given.rounds, "not_measured": notes,
        "summary": summary(found), "runs": found, "gpu": on_gpu,
    }  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(body, indent=1, default=str) + "\n")
    return body


if __name__ == "__main__":
    main()
