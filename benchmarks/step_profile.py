"""Where the time of a training step goes: matrix products by shape, with their speed, and everything else by name.

    python -m benchmarks.step_profile [--kind narrow|wide] [--precision bf16|fp32] [--rows 120] [--json FILE]

One thread, this project's trainer on the workload of `train_throughput.py`, under torch's profiler. Its times are wall
times: on a busy machine they are too long, the shares are what counts. T stands for a number of tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import contender, workload
from toolkit.system.spawn import library_environment

os.environ.update({**library_environment(hub=False), "OMP_NUM_THREADS": "1"})  # as a run of the app gets it

PRODUCTS = {"aten::mm": 0, "aten::bmm": 0, "aten::addmm_": 1}
"""Operation -> which of its inputs is the left matrix; the right one comes after it."""
SIZES = {workload.SHAPE[name] for name in ("vocab_size", "hidden_size", "intermediate_size")} | {contender.RANK, 128}


def profiled(kind: str, precision: str, rows: int) -> Any:
    """The profiler's events of one epoch."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    folder = workload.make(Path(tempfile.mkdtemp()))
    train, _ = contender.raw_rows(folder, kind, rows)

    class Under(contender.Clock):
        def start(self) -> None:
            self.seen = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.seen.__enter__()

        def stop(self) -> None:
            self.seen.__exit__(None, None, None)

    clock = Under()
    contender.ours(folder, train, precision == "bf16", clock)
    return clock.seen.events()


def shares(events: Any) -> list[dict[str, Any]]:
    """Self time of each kind of operation: seconds, share of all, calls, and GFLOP/s where it is a product."""
    found: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0.0])
    for event in events:
        name, flops = event.name, 0.0
        if name in PRODUCTS:
            left, right = [shape for shape in event.input_shapes if shape][PRODUCTS[name] :][:2]
            flops = 2.0 * right[-1]
            for size in left:
                flops *= size
            name = f"{name.removeprefix('aten::').rstrip('_')} {_words(left)} x {_words(right)}"
        entry = found[name]
        entry[0] += event.self_cpu_time_total / 1e6
        entry[1] += 1
        entry[2] += flops
    total = sum(seconds for seconds, *_ in found.values())
    rows = [
        {"what": name, "seconds": round(seconds, 3), "share": round(seconds / total, 4), "calls": int(calls),
         "gflops": round(flops / seconds / 1e9) if flops else None}
        for name, (seconds, calls, flops) in found.items()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -float(row["seconds"]))


def _words(shape: Sequence[int]) -> str:
    return "[" + ", ".join(str(size) if size in SIZES else "T" for size in shape) + "]"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kind", default="narrow", choices=("narrow", "wide"))
    parser.add_argument("--precision", default="fp32", choices=("bf16", "fp32"))
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = shares(profiled(given.kind, given.precision, given.rows))
    products = sum(row["share"] for row in rows if row["gflops"])
    print(f"{given.kind} {given.precision}: {products:.0%} of the time in matrix products")
    for row in rows[:30]:
        speed = f"{row['gflops']:5} GFLOP/s" if row["gflops"] else " " * 13
        print(f"{row['share']:6.1%} {row['seconds']:8.3f} s {row['calls']:6} calls {speed}  {row['what']}")
    if given.json:
        body = {"date": date.today().isoformat(), "kind": given.kind, "precision": given.precision,
                "products": round(products, 4), "operations": rows[:60]}  # fmt: skip
        given.json.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
