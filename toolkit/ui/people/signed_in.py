"""Who the visitor is, from Streamlit's `[auth]` and the list `[people]` in the secrets file, and where their folder is.

Without `[auth]` there is one output folder for everybody who can open the app.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from toolkit.access.own_folder import prepare_person_folder
from toolkit.access.people import AdmissionRules, Person, admit_person, read_admission_rules
from toolkit.access.token_file import find_app_folder
from toolkit.errors import SignInError
from toolkit.system.private_files import tighten_save_dir


@cache
def is_sign_in_configured() -> bool:
    """Return whether visitors have to sign in. The first answer holds until the app ends.

    Raises SignInError if there is a secrets file that can't be read: it may ask for sign-in.
    """
    if st.secrets.load_if_toml_exists():
        return "auth" in st.secrets
    for file in st.get_option("secrets.files"):
        if Path(file).exists():
            message = f"The app's secrets file {file} can't be read, and it may ask visitors to sign in."
            raise SignInError(message, "The owner of the app has to correct it. The app's log has the reason.")
    return False


def load_admission_rules() -> AdmissionRules:
    """Return the list of people as the secrets file has it now. Raises SignInError."""
    is_readable = st.secrets.load_if_toml_exists()
    return read_admission_rules(st.secrets["people"].to_dict() if is_readable and "people" in st.secrets else {})


def find_person() -> Person | None:
    """Return who uses this session; None if nobody has to sign in.

    Raises SignInError: not signed in, not on the list any more, or called outside a page.
    """
    if not is_sign_in_configured():
        return None
    claims: Mapping[str, Any] = st.user.to_dict() if get_script_run_ctx(suppress_warning=True) else {}
    return admit_visitor(claims)


def admit_visitor(claims: Mapping[str, Any]) -> Person:
    """Return the person that Streamlit's claims of a session or cookie name. Raises SignInError."""
    if claims.get("is_logged_in") is not True:
        raise SignInError("You are not signed in.", "Reload the page, and choose Sign in.")
    return admit_person(claims, load_admission_rules())


def app_folder() -> Path:
    """Return the output folder of the app, which has the folders of all people in it; create it."""
    folder = find_app_folder()
    folder.mkdir(parents=True, exist_ok=True)
    tighten_save_dir(folder)
    return folder


def own_folder() -> Path:
    """Return the folder of this session's draft, runs and uploads: the app's or the person's. Raises SignInError."""
    person = find_person()
    return app_folder() if person is None else prepare_person_folder(app_folder(), person)


def readable_folders() -> tuple[Path, ...]:
    """Return the folders from which this session may name files: the person's and the shared ones."""
    return own_folder(), *(Path(folder).expanduser() for folder in load_admission_rules().shared_folders)
