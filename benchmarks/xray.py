"""How long the loss X-ray takes, from the question to the answer, once its worker is warm.

    python -m benchmarks.xray [--rounds 40] [--json FILE]

The demo's own dataset and model. First question: a process starts and imports the training libraries. Then, in turn,
another row, and another wording of the template. What the page adds is a rerun, which `benchmarks/app.py` measures.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.services import warm_client


def seconds(save_dir: Path, body: dict[str, Any]) -> float:
    began = time.perf_counter()
    value = warm_client.ask_warm_worker(save_dir, "xray", body)
    assert value["usable"], value
    return time.perf_counter() - began


def measured(save_dir: Path, rounds: int) -> dict[str, Any]:
    config = Config()
    table = open_table(config.data, save_dir)
    settings = config.model_dump(mode="json")

    def body(row: int, prompt: str | None) -> dict[str, Any]:
        data = {**settings["data"], "prompt": prompt}
        return {"config": {**settings, "data": data}, "table": str(table.path), "row": row}

    prompt = config.data.prompt
    first = seconds(save_dir, body(0, prompt))
    rows = [seconds(save_dir, body(row, prompt)) for row in range(1, rounds + 1)]
    edits = [seconds(save_dir, body(0, f"{prompt} {number}")) for number in range(rounds)]
    return {"first_s": first, "row": _told(rows), "template": _told(edits), "load": os.getloadavg()[0]}


def _told(found: list[float]) -> dict[str, float]:
    return {"median_s": median(found), "p95_s": quantiles(found, n=20)[-1], "n": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save_dir = Path(folder)
        try:
            found = measured(save_dir, chosen.rounds)
        finally:
            warm_client.stop_warm_worker(save_dir)
    print(json.dumps(found, indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
