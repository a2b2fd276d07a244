"""What a start of the app shows: its link in the terminal, and the app in the browser of the machine's own screen."""

from __future__ import annotations

import html
import logging
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from toolkit.access.token_file import (
    REQUIRE_VARIABLE,
    build_link,
    find_app_folder,
    is_token_required,
    write_address,
)
from toolkit.errors import SignInError
from toolkit.system.durable import durable_write
from toolkit.ui.frame.access_guard import load_app_token
from toolkit.ui.frame.network_guard import is_loopback
from toolkit.ui.people.signed_in import is_sign_in_configured

OPENING_PAGE = "open-app.html"
"""A file in the output folder that leads to the link: the argument list of a browser is visible to everybody."""
OPENING_SECONDS = 60.0

logger = logging.getLogger(__name__)


def announce_app() -> None:
    """Print the app's link, keep its address, and open it in a browser unless the server is headless."""
    address = find_app_address(st.get_option)
    link = build_link(address, load_app_token()) if is_token_required() else f"{address}/"
    note = "It is for you only." if is_token_required() else _describe_visitors()
    print(f"\n  Finetuning Toolkit runs. Open this link in a browser. {note}\n\n      {link}\n", flush=True)
    remove_opening_page()
    try:
        write_address(find_app_folder(), address)
        if not st.get_option("server.headless"):
            _open_in_browser(link)
    except OSError as error:
        logger.warning("the browser can't be opened, or the address can't be kept: %s", error)


def _describe_visitors() -> str:
    try:
        if is_sign_in_configured():
            return "Visitors sign in."
    except SignInError as error:
        return str(error)
    return f"{REQUIRE_VARIABLE} lets every user of this machine in."


def find_app_address(option: Callable[[str], Any]) -> str:
    """Return the app's address for a browser on this machine. option: reads a Streamlit option by its dotted name."""
    bound = str(option("server.address") or "")
    named = str(option("browser.serverAddress") or "").partition("/")[0]
    if named in ("", "localhost"):  # the default: the app is opened at the address that it listens on
        local = bound in ("", "0.0.0.0", "::") or is_loopback(bound)  # noqa: S104 - compared, not bound
        named = "localhost" if local else bound
    scheme = "https" if option("server.sslCertFile") else "http"
    base = str(option("server.baseUrlPath") or "").strip("/")
    host = f"[{named}]" if ":" in named else named
    return f"{scheme}://{host}:{option('browser.serverPort')}" + (f"/{base}" if base else "")


def remove_opening_page() -> None:
    """Remove the file that has led the browser to the link."""
    _remove_file(find_app_folder() / OPENING_PAGE)


def _remove_file(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s can't be removed: %s", path, error)


def _open_in_browser(link: str) -> None:
    """Open the link without it being in the arguments of another process. Raises OSError."""
    page = find_app_folder() / OPENING_PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    durable_write(page, f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(link)}">\n')
    threading.Thread(target=webbrowser.open, args=(page.as_uri(),), name="browser", daemon=True).start()
    timer = threading.Timer(OPENING_SECONDS, _remove_file, (page,))
    timer.daemon = True
    timer.start()
