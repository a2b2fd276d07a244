"""How well the dataset doctor finds seeded faults, and how long it takes.

    python -m benchmarks.doctor [--seeds 3] [--rows 5000] [--million 1000000] [--out FILE]

Prints precision and recall of each finding over corpora whose answers are known (`tests/fakes/corpus.py`: look-alikes
are in them too), as pairs and as conversations, then seconds and peak memory of the process that examines a table of
`--million` rows of about 600 bytes (0: leave that out).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fakes.corpus import EXACT, NEAR, WHOLE, Corpus, leaks, seeded, small, totals
from toolkit.config import Config
from toolkit.data.doctor.checks import list_findings
from toolkit.data.examples.split import plan_split
from toolkit.data.findings import Finding
from toolkit.data.storage.open_table import open_table
from toolkit.data.table import make_table_footer

PER_FAULT = 60


def examined(path: Path, templates: dict[str, str], folder: Path) -> tuple[dict[str, Finding], Any]:
    """(finding by kind, the split)."""
    data = {"file_type": "csv", "path": str(path), **templates}
    config = Config.model_validate({"data": data})
    table = open_table(config.data, folder)
    return {finding.kind: finding for finding in list_findings(table, config)}, plan_split(table, config.data)


def examined_chats(corpus: Corpus, folder: Path) -> tuple[dict[str, Finding], Any]:
    """The same for the corpus as conversations of two messages; a missing cell makes a conversation that is skipped."""
    path = folder / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for message, reply in corpus.rows:
            turns = [{"role": "user", "content": message or None}, {"role": "assistant", "content": reply or None}]
            file.write(json.dumps({"messages": turns}, ensure_ascii=False) + "\n")
    data = {"file_type": "json", "path": str(path), "messages": "messages", "bad_rows": "skip"}
    config = Config.model_validate({"data": data})
    table = open_table(config.data, folder)
    return {finding.kind: finding for finding in list_findings(table, config)}, plan_split(table, config.data)


def rows_found(seeds: int, rows: int, *, chats: bool = False) -> dict[str, list[int]]:
    """kind -> [hits, found, true] over all seeds, by rows. chats: of the rows as conversations."""
    counts = totals()
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            corpus = seeded(folder / "corpus.csv", rows, seed, PER_FAULT)
            found, plan = (
                examined_chats(corpus, folder)
                if chats
                else examined(corpus.path, {"prompt": "{message}", "prompt_stub": "{reply}"}, folder)
            )
            truth = corpus.truth | leaks(corpus, plan.train, plan.test)
            for kind in (*EXACT, *NEAR):
                said = set(found[kind].rows.tolist()) if kind in found else set()
                for at, number in enumerate((len(said & truth[kind]), len(said), len(truth[kind]))):
                    counts[kind][at] += number
            for kind in WHOLE:
                counts[kind][1] += kind in found
    return counts


def datasets_found(seeds: int, counts: dict[str, list[int]]) -> None:
    """Add what concerns whole tables, by datasets: as many with the fault as without."""
    for kind in WHOLE:
        for seed in range(10 * seeds):
            for faulty in (True, False):
                with tempfile.TemporaryDirectory() as scratch:
                    path = Path(scratch) / "small.csv"
                    found, _ = examined(path, small(kind, faulty, seed, path), Path(scratch))
                counts[kind][0] += faulty and kind in found
                counts[kind][1] += kind in found
                counts[kind][2] += faulty


def big_table(path: Path, rows: int) -> None:
    """A parquet table of about 600 bytes a row: words drawn at random, one row in a hundred copied or nearly."""
    import random

    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    schema = pa.schema([("message", pa.string()), ("reply", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as out:
        last: list[list[str]] = []
        for start in range(0, rows, 16_384):
            part = [
                [" ".join(rng.choices(words, k=60)), " ".join(rng.choices(words, k=32))]
                for _ in range(min(16_384, rows - start))
            ]
            for at in range(0, len(part), 100):
                if last:
                    part[at] = list(last[at % len(last)])
                    part[at][0] = part[at][0].replace("e", "x", at // 100 % 2)
            last = part
            out.write_table(pa.table(list(zip(*part, strict=True)), schema=schema))
        out.add_key_value_metadata(make_table_footer("0" * 64, "big", {"message": 0, "reply": 0}, ()))


def speed(rows: int) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of the examining process."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        big_table(folder / "big.parquet", rows)
        data = Config.model_validate({"data": {"prompt": "{message}", "prompt_stub": "{reply}"}}).data
        request = {"table": str(folder / "big.parquet"), "data": data.model_dump(mode="json"), "folder": scratch}
        begun = time.monotonic()
        subprocess.run(
            [sys.executable, "-m", "toolkit.data.doctor.examine_task"], input=json.dumps(request).encode(), check=True
        )  # fmt: skip
        wall = time.monotonic() - begun
        report = json.loads((folder / "report.json").read_text())
        assert report["error"] is None, report
        found = json.loads((folder / "findings" / "report.json").read_text())["findings"]
        print([entry["message"] for entry in found])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"rows": rows, "wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}


def tabulate_counts(counts: dict[str, list[int]]) -> dict[str, dict[str, float]]:
    """Print precision and recall of each finding, and return them."""
    table = {}
    print(f"{'finding':24} {'planted':>8} {'found':>6} {'precision':>10} {'recall':>7}")
    for kind, (hits, found, true) in counts.items():
        table[kind] = {"planted": true, "found": found, "precision": hits / found if found else 1.0,
                       "recall": hits / true}  # fmt: skip
        print(f"{kind:24} {true:8,} {found:6,} {table[kind]['precision']:10.3f} {table[kind]['recall']:7.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--million", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(f"benchmarks/results/doctor-{date.today()}.json"))
    asked = parser.parse_args()
    # first: the peak memory of children is that of the largest one
    timed = speed(asked.million) if asked.million else None
    counts = rows_found(asked.seeds, asked.rows)
    datasets_found(asked.seeds, counts)
    table = tabulate_counts(counts)
    chats = tabulate_counts(
        {f"chats: {kind}": count for kind, count in rows_found(asked.seeds, asked.rows, chats=True).items() if count[2]}
    )
    if timed:
        print(f"{timed['rows']:,.0f} rows: {timed['wall_s']:.0f} s ({timed['cpu_s']:.0f} CPU-s), "
              f"peak {timed['peak_mb']:.0f} MB")  # fmt: skip
    result = {"date": str(date.today()), "machine": platform.platform(), "seeds": asked.seeds, "rows": asked.rows,
              "per_fault": PER_FAULT, "findings": table | chats, "speed": timed}  # fmt: skip
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=1))
    print(f"written to {asked.out}")


if __name__ == "__main__":
    main()
