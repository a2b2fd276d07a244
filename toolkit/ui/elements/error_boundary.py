"""The error boundary: what goes wrong inside a part of a page becomes words there, and the rest stays usable.

Every part that draws itself again on its own needs one. Knows no page.
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
    """Turns an error into words: a ToolkitError into its message and hint, any other into a sentence with an id.

    The trace of the latter goes to the app's log under the same id.
    """
    try:
        yield
    except ToolkitError as error:
        show_error(error)
    except Exception:
        ticket = secrets.token_hex(3)
        logger.exception("error %s", ticket)
        st.error(
            f"Something went wrong inside the app (error {ticket}). Nothing was lost: runs go on, and your settings "
            f"are saved. The log of the app, in the terminal that started it, has the details under {ticket}.",
            icon=":material/error:",
        )


def show_error(error: ToolkitError) -> None:
    """Message and hint of an error, as text."""
    body = escape_lines(error.message)
    st.error(f"{body}  \n{escape_lines(error.hint)}" if error.hint else body, icon=":material/error:")
