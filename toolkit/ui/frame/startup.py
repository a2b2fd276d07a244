"""What the app does before anybody opens a page: runs go on (after a reboot, the app alone is enough), and what the
pages need is imported.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import streamlit as st

from toolkit.ui.frame import ahead, page
from toolkit.ui.workspace import workspace, workspace_file

FIRST_PAGE_HEAD_START_S = 10.0
"""Whoever has just started the app waits for its first page, which starts the same: that one goes first."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(app: st.App) -> AsyncIterator[dict[str, Any] | None]:
    """For `st.App`: import what pages need, and supervise the saved workspace's runs soon after the server's start."""
    ahead.import_pages_ahead()
    later = threading.Timer(FIRST_PAGE_HEAD_START_S, _finish_startup)
    later.daemon = True
    later.start()
    try:
        yield None
    finally:
        later.cancel()


def _finish_startup() -> None:
    start_supervision()
    ahead.freeze_loaded_objects()


def start_supervision() -> None:
    """Start the supervising thread; does nothing where a page has done so."""
    try:
        page.get_supervisor(str(workspace.resolve_save_dir(workspace_file.load_workspace()[0])))
    except OSError:
        logger.exception("nothing is supervised before a page is opened")
