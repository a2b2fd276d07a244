"""What the pages import, imported while the browser still loads: the first page need not wait for it.

Knows the pages' files, not what they do.
"""

from __future__ import annotations

import ast
import gc
import threading
from importlib import import_module

from toolkit.system.paths import PROJECT_ROOT
from toolkit.ui.frame.page import PAGES


def import_pages_ahead() -> threading.Thread:
    """Begin, in a thread of its own, with what the first page needs."""
    thread = threading.Thread(target=_import_pages, name="imports ahead", daemon=True)
    thread.start()
    return thread


def freeze_loaded_objects() -> None:
    """What is in memory now, modules above all, stays: the collector need not look at it in the middle of a rerun."""
    gc.collect()
    gc.freeze()


def list_page_imports(source: str) -> list[str]:
    """The modules of this project that a page's source imports, each once."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom) and node.module]
    names = [_module(str(node.module), alias.name) for node in nodes for alias in node.names]
    return [name for name in dict.fromkeys(names) if name.startswith("toolkit.")]


def _module(package: str, name: str) -> str:
    """`name` may be a module of `package`, or something that the module `package` defines."""
    inner = f"{package}.{name}"
    return inner if (PROJECT_ROOT / f"{inner.replace('.', '/')}.py").is_file() else package


def _import_pages() -> None:
    for page in PAGES.values():
        for name in list_page_imports((PROJECT_ROOT / page.file).read_text(encoding="utf-8")):
            import_module(name)
