"""Seconds per MB of the readers on files made to be slow: `python -m benchmarks.hostile --megabytes 1 --json FILE`.

Each file is read as an upload is, in a process of its own; CPU-seconds are that process's, less what it takes for a
table of one row. `limits.seconds` bounds what a person feels: after a minute and a second for every MB reading is
given up, in words. Exit status 1 when a file takes more than --bound CPU-seconds per MB, or its reader dies.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

from toolkit.config import DataConfig
from toolkit.data.examples.templates import MAX_TEMPLATE, compile_template
from toolkit.data.storage.open_table import open_table
from toolkit.data.storage.uploads import store_upload
from toolkit.errors import DataError

Make = Callable[[int], str]
BOUND = 20.0
"""CPU-seconds per MB."""
CSV: dict[str, Make] = {
    "plain rows": lambda size: "a,b\n" + "some words,and some more\n" * (size // 25),
    "one quote that never closes": lambda size: 'a,b\n"' + "x" * size,
    "quotes alone": lambda size: "a,b\n" + '""""' * (size // 4),
    "empty quoted cells": lambda size: "a,b\n" + '"",""\n' * (size // 6),
    "delimiters alone": lambda size: "a,b\n" + "," * size,
    "every row too long": lambda size: "a,b\n" + "1,2,3\n" * (size // 6),
    "blank lines": lambda size: "a,b\n1,2\n" + "\n" * size,
    "carriage returns": lambda size: "a,b\r1,2" + "\r" * size,
    "semicolons and commas": lambda size: "a;b,c\n" + ";,;,\n" * (size // 5),
    "a thousand columns": lambda size: ",".join(f"c{i}" for i in range(1000)) + ("\n" + "," * 999) * (size // 1000),
    "one letter in a thousand is no UTF-8": lambda size: "a,b\n" + ("x" * 999 + "\udcff,y\n") * (size // 1003),
    "mojibake": lambda size: "a,b\n" + "cafÃ© ZoÃ«,GrÃ¼ÃŸe\n" * (size // 28),
}
JSON: dict[str, Make] = {
    "objects per line": lambda size: '{"a": "some words", "b": 12}\n' * (size // 29),
    "one list": lambda size: "[" + '{"a": 1},\n' * (size // 10) + '{"a": 2}]',
    "brackets": lambda size: "[" * size,
    "braces": lambda size: '{"a":' * (size // 5),
    "objects without a line break": lambda size: '{"a": 1}' * (size // 8),
    "escapes": lambda size: '[{"a": "' + "\\u00e9" * min(size // 6, 900_000) + '"}]',
    "long number": lambda size: '[{"a": ' + "9" * min(size, 900_000) + "}]",
    "columns that grow": lambda size: "".join(f'{{"c{i % 1000}": 1}}\n' for i in range(size // 12)),
    "nested": lambda size: '{"a": [[[[[[[[[[1]]]]]]]]]]}\n' * (size // 28),
    "two objects per line": lambda size: '{"a": 1} {"a": 2}\n' * (size // 18),
    "chats": lambda size: (
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n' * (size // 88)
    ),
    "broken chats": lambda size: (
        '{"messages": [{"role": "x", "content": 1}, {"role": "y", "content": {}}]}\n' * (size // 75)
    ),
}


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def read(content: bytes, kind: str) -> tuple[float, str]:
    """(CPU-seconds of the reading process, how it ended)."""
    with tempfile.TemporaryDirectory() as folder:
        path = store_upload(content, f"hostile.{kind}", Path(folder))
        before = cpu_of_children()
        try:
            ended = f"{open_table(DataConfig(file_type=kind, path=str(path)), Path(folder)).rows:,} rows"
        except DataError as error:
            ended = error.message
        return cpu_of_children() - before, ended


def templates() -> dict[str, float]:
    """CPU-seconds to compile the longest template of mistakes against a thousand columns."""
    columns = [f"column number {i}" for i in range(1000)]
    taken = {}
    for text in ("{x}", "{", "{column numbre 7}", "{a.b!r:>9}"):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        try:
            compile_template((text * MAX_TEMPLATE)[:MAX_TEMPLATE], columns)
        except DataError as error:
            assert error.hint
        taken[f"template of {text}"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_utime - before, 3)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=1)
    parser.add_argument("--bound", type=float, default=BOUND)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    start = min(read(b"a,b\n1,2\n", "csv")[0] for _ in range(3))
    found, over = {}, []
    for kind, makers in (("csv", CSV), ("json", JSON)):
        for name, make in makers.items():
            content = make(asked.megabytes * 1_000_000).encode(errors="surrogateescape")
            taken, ended = read(content, kind)
            each = max(0.0, taken - start) / (len(content) / 1e6)
            died = "did not finish" in ended
            over += [name] if each > asked.bound or died else []
            kept = {"mb": round(len(content) / 1e6, 2), "cpu_s_per_mb": round(each, 3), "end": ended[:160]}
            found[f"{kind}: {name}"] = kept
            print(f"{kind:5}{name:40}{each:7.3f} s/MB  {ended[:80]}", flush=True)
    found_templates = templates()
    for name, seconds in found_templates.items():
        over += [name] if seconds > asked.bound else []
        print(f"{name:45}{seconds:7.3f} s")
    worst = max(entry["cpu_s_per_mb"] for entry in found.values())
    print(f"worst {worst:.3f} CPU-seconds per MB; over the bound of {asked.bound}: {', '.join(over) or 'none'}")
    figures = {"worst_cpu_s_per_mb": worst, "bound": asked.bound, "over": over, "files": found}
    if asked.json:
        asked.json.write_text(json.dumps({**figures, "templates": found_templates}, indent=1) + "\n")
    return 1 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
