"""Files that a page makes when its button is pressed. Streamlit gives them an address, but no owner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit.runtime.memory_media_file_storage import _calculate_file_id

from toolkit.ui.people.signed_in import find_person

_MADE_FOR: defaultdict[str, set[str]] = defaultdict(set)
"""The file's id in its address -> the identities of the people whose pages made it."""


def draw_made_download(label: str, make: Callable[[], bytes], file_name: str, mime: str, **more: Any) -> None:
    """Draw a download button whose file is made when it is pressed, for the person of this session only.

    more: further arguments of `st.download_button`.
    """
    person = find_person()
    made = make if person is None else make_for_owner(make, file_name, mime, person.identity)
    st.download_button(label, made, file_name=file_name, mime=mime, **more)


def make_for_owner(make: Callable[[], bytes], file_name: str, mime: str, identity: str) -> Callable[[], bytes]:
    """Return the function that makes a file and notes whose it is before Streamlit gives it an address."""

    def make_and_note() -> bytes:
        content = make()
        _MADE_FOR[_calculate_file_id(content, mime, file_name)].add(identity)
        return content

    return make_and_note


def find_makers(file_id: str) -> frozenset[str]:
    """Return the identities of the people for whom a file was made; empty for a file of another kind."""
    return frozenset(_MADE_FOR.get(file_id, ()))
