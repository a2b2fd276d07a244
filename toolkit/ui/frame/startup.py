"""What the app does before a page is opened: show its link, import the pages' modules, and supervise runs.

After a reboot, starting the app is enough for its runs to continue.
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

from toolkit.access.own_folder import list_person_folders
from toolkit.errors import SignInError
from toolkit.system.paths import APP_ROOT, PROJECT_ROOT
from toolkit.ui.frame import announce, page
from toolkit.ui.frame.page import PAGES
from toolkit.ui.people.signed_in import app_folder, is_sign_in_configured
from toolkit.ui.workspace import workspace, workspace_file

FIRST_PAGE_HEAD_START_S = 10.0
"""Seconds by which supervision waits after the start: the first page, which is loaded then, needs the CPU."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[dict[str, Any] | None]:
    """Announce the app, import its pages, and start supervision soon after the server has started; for `st.App`."""
    import_pages_ahead()
    announce.announce_app()
    timer = threading.Timer(FIRST_PAGE_HEAD_START_S, _finish_startup)
    timer.daemon = True
    timer.start()
    try:
        yield None
    finally:
        timer.cancel()
        announce.remove_opening_page()


def _finish_startup() -> None:
    start_supervision()
    freeze_loaded_objects()


def start_supervision() -> None:
    """Start the supervisor of the saved workspace, or those of all people; do nothing if a page has started it."""
    try:
        if is_sign_in_configured():
            folders = list_person_folders(app_folder())
        else:
            folders = [workspace.resolve_save_dir(workspace_file.load_workspace()[0])]
        for folder in folders:
            page.get_supervisor(str(folder))
    except (OSError, SignInError) as error:
        logger.warning("Supervision could not start: runs are not supervised until a page is opened. %s", error)


def import_pages_ahead() -> threading.Thread:
    """Import the modules of all pages in a background thread, the first page's first."""
    thread = threading.Thread(target=_import_pages, name="imports ahead", daemon=True)
    thread.start()
    return thread


def freeze_loaded_objects() -> None:
    """Exempt the objects that are in memory now from garbage collection.

    They are mostly modules, which stay anyway; scanning them would slow down reruns of a page.
    """
    gc.collect()
    gc.freeze()


def list_page_imports(source: str) -> list[str]:
    """Return the modules of this project that a page's source imports, without repetitions."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom) and node.module]
    names = [_module(str(node.module), alias.name) for node in nodes for alias in node.names]
    return [name for name in dict.fromkeys(names) if name.startswith("toolkit.")]


def _module(package: str, name: str) -> str:
    """Return the module of `from package import name`: a submodule of that name, or else `package` itself."""
    submodule = f"{package}.{name}"
    return submodule if (PROJECT_ROOT / f"{submodule.replace('.', '/')}.py").is_file() else package


def _import_pages() -> None:
    for page_info in PAGES.values():
        for name in list_page_imports((APP_ROOT / page_info.file).read_text(encoding="utf-8")):
            import_module(name)
