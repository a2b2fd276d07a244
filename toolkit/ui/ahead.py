"""What the pages import, imported while the browser still loads: the first page need not wait for it.

Knows the pages' files, not what they do.
"""

from __future__ import annotations

import ast
import gc
import threading
from importlib import import_module

from toolkit.paths import PROJECT_ROOT
from toolkit.ui.chrome import PAGES

_HERE = "toolkit.ui"


def import_ahead() -> threading.Thread:
    """Begin, in a thread of its own, with what the first page needs."""
    thread = threading.Thread(target=_import_all, name="imports ahead", daemon=True)
    thread.start()
    return thread


def keep_for_life() -> None:
    """What is in memory now, modules above all, stays: the collector need not look at it in the middle of a rerun."""
    gc.collect()
    gc.freeze()


def imported(source: str) -> list[str]:
    """The modules of ours that a page's source imports."""
    found = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom) and node.module]
    names = [
        [f"{_HERE}.{alias.name}" for alias in node.names] if node.module == _HERE else [str(node.module)]
        for node in found
    ]
    return [name for group in names for name in group if name.startswith("toolkit.")]


def _import_all() -> None:
    for page in PAGES.values():
        for name in imported((PROJECT_ROOT / page.file).read_text(encoding="utf-8")):
            import_module(name)
