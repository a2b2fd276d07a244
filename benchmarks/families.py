"""Every family of `tiny_families.py` from its first token to its exports, compared with the plain libraries.

``python -m benchmarks.families [FAMILY ...] --json FILE`` checks the families that are not in FILE yet, adds a row for
each, and prints one table: rows families, columns checks. Every cell is yes, a refusal, or what is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":  # not where a test imports this
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}

import torch

from benchmarks.family_run import YES, FamilyRun, RunInterrupted
from benchmarks.tiny_families import FAMILIES

CHECKS: dict[str, Callable[[FamilyRun], str]] = {
    "ids and labels": FamilyRun.check_tokens,
    "first gradients": FamilyRun.check_gradients,
    "resume": FamilyRun.check_resume,
    "PEFT = engine": FamilyRun.check_engine,
    "stops": FamilyRun.check_stops,
    "adapter": lambda family: family.check_export("adapter"),
    "merged": lambda family: family.check_export("merged-bf16"),
    "GGUF": lambda family: family.check_export("gguf-q8"),
}
STEPS = 40
Row = dict[str, str]


def check_family(name: str, place: Path, steps: int = STEPS, checks: Sequence[str] = tuple(CHECKS)) -> Row:
    """Return the cells of one family, by check. Raises RunInterrupted if a signal stopped one of its runs."""
    family = FamilyRun(name, place, steps)
    expected = FAMILIES[name].refused
    if expected or family.problem:
        refused = bool(expected) and expected in family.problem
        return dict.fromkeys(checks, f"{'refused' if refused else 'FAILED'}: {family.problem or 'it was trained'}")
    return {check: _try_check(family, check) for check in checks}


def _try_check(family: FamilyRun, check: str) -> str:
    """Return the cell of a check; an error of it is a cell as well, so that the other checks are made."""
    try:
        return CHECKS[check](family)
    except RunInterrupted:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is belongs into the table
        traceback.print_exc()
        return f"FAILED: {type(error).__name__}: {error}"


def format_table(table: Mapping[str, Row]) -> str:
    """Return the table as Markdown, with each cell that is not yes as a number, and what the numbers say below it."""
    notes: list[str] = []

    def short(name: str, cell: str) -> str:
        if cell == YES:
            return cell
        # a refusal names the family, and is one note for all of them
        note = cell.replace(f"'{name}'", "'FAMILY'")
        if note not in notes:
            notes.append(note)
        return f"{cell.split(':')[0] if cell.startswith('refused') else 'NO'} [{notes.index(note) + 1}]"

    lines = ["| family | " + " | ".join(CHECKS) + " |", "|---" * (len(CHECKS) + 1) + "|"]
    for name, cells in table.items():
        lines.append(f"| {name} | " + " | ".join(short(name, cells[check]) for check in CHECKS) + " |")
    return "\n".join([*lines, "", *(f"[{number}] {note}" for number, note in enumerate(notes, 1))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", choices=[*FAMILIES, []], help="default: all that are not in FILE")
    parser.add_argument("--json", type=Path, required=True, help="file to add the rows to")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    file: Path = chosen.json
    table: dict[str, Row] = json.loads(file.read_text()) if file.exists() else {}
    for name in chosen.families or [name for name in FAMILIES if name not in table]:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            os.environ["FTK_STATE_DIR"] = str(Path(place) / "state")
            table[name] = check_family(name, Path(place))
        file.write_text(json.dumps(table, indent=1) + "\n")
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    print(format_table({name: table[name] for name in FAMILIES if name in table}))


if __name__ == "__main__":
    main()
