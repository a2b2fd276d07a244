"""Golden reports: what a user sees in an unusual situation, compared word for word with a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Report = dict[str, Any]


def hold(golden: Path, name: str, report: Report) -> None:
    """Compare with the report of that name in the file; WRITE_GOLDEN=1 rewrites it."""
    kept: dict[str, Report] = json.loads(golden.read_text()) if golden.exists() else {}
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(json.dumps({**kept, name: report}, ensure_ascii=False, indent=1, sort_keys=True) + "\n")
        return
    assert report == kept.get(name)


def check(golden: Path, names: Iterable[str]) -> None:
    """Check that the file has exactly these reports, that none shows a traceback, and that each refusal has a hint."""
    kept: dict[str, Report] = json.loads(golden.read_text())
    assert set(kept) == set(names)
    for name, report in kept.items():
        assert report["outcome"] in ("accepted", "refused", "warned"), name
        assert "Traceback" not in json.dumps(report), name
        if report["outcome"] == "refused":
            assert report["told"], name
            # a sentence that says what is wrong, and another one behind it
            assert all(len(words.rstrip(".").split(". ")) > 1 for words in report["told"]), (name, report["told"])


def state_of(folder: Path) -> dict[str, str]:
    """Every file below `folder` that is a person's, by its hash: no locks, nothing that is read again."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.is_symlink() and "tables" not in file.parts and "slot" not in file.name
        and not file.name.startswith(".")
    }  # fmt: skip


def without(text: str, folder: Path) -> str:
    """Replace the folder of the test by <here>."""
    return text.replace(str(folder), "<here>")
