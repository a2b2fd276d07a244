"""What the app does before anybody opens a page: runs go on (after a reboot, the app alone is enough), and what the
pages need is imported.
"""

from __future__ import annotations

import ast
import gc
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

import streamlit as st

from toolkit.system.paths import APP_ROOT, PROJECT_ROOT
from toolkit.ui.frame import page
from toolkit.ui.frame.page import PAGES
from toolkit.ui.workspace import workspace, workspace_file

FIRST_PAGE_HEAD_START_S = 10.0
"""Whoever has just started the app waits for its first page, which starts the same: that one goes first."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[dict[str, Any] | None]:
    """For `st.App`: import what pages need, and supervise the saved workspace's runs soon after the server's start."""
    import_pages_ahead()
    later = threading.Timer(FIRST_PAGE_HEAD_START_S, _finish_startup)
    later.daemon = True
    later.start()
    try:
        yield None
    finally:
        later.cancel()


def _finish_startup() -> None:
    start_supervision()
    freeze_loaded_objects()


def start_supervision() -> None:
    """Start the supervising thread; does nothing where a page has done so."""
    try:
        page.get_supervisor(str(workspace.resolve_save_dir(workspace_file.load_workspace()[0])))
    except OSError:
        logger.exception("nothing is supervised before a page is opened")


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
    for one_page in PAGES.values():
        for name in list_page_imports((APP_ROOT / one_page.file).read_text(encoding="utf-8")):
            import_module(name)
