"""The error boundary: an exception in one part of a page becomes a message there, and the rest stays usable.

Every fragment needs a boundary of its own, because it reruns outside the boundary of its page.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.ui.elements.escape import escape_lines

logger = logging.getLogger(__name__)


@contextmanager
def error_boundary() -> Iterator[None]:
    """Show an exception on the page: message and hint of a ToolkitError, a general message with an id for any other.

    The traceback of the latter goes to the app's log under the same id.
    """
    try:
        yield
    except ToolkitError as error:
        show_error(error)
    except Exception:
        error_id = secrets.token_hex(3)
        logger.exception("error %s", error_id)
        st.error(
            f"Something went wrong inside the app (error {error_id}). Runs continue and your settings are saved. "
            f"For details, search for {error_id} in the app's log (the terminal where the app was started).",
            icon=":material/error:",
        )


def show_error(error: ToolkitError) -> None:
    """Show the message and hint of an error as text."""
    body = escape_lines(error.message)
    st.error(f"{body}  \n{escape_lines(error.hint)}" if error.hint else body, icon=":material/error:")
