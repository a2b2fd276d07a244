"""What a visitor sees who has not signed in or may not come in, and the name and "Sign out" of one who may."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from streamlit.errors import StreamlitAuthError, StreamlitMissingAuthlibError

from toolkit.errors import SignInError
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.people.signed_in import find_person, is_sign_in_configured

DEFAULT_PROVIDER = ""


def stop_unless_signed_in() -> bool:
    """Show a page to sign in, or why the person may not come in, and end the script; return whether someone has.

    False: nobody has to sign in.
    """
    try:
        return find_person() is not None
    except SignInError as error:
        _draw_refusal(error)
        st.stop()


def draw_person() -> None:
    """Draw the name of the person who has signed in, and "Sign out"; nothing if nobody has to sign in."""
    person = find_person()
    if person is None:
        return
    with st.container(horizontal=True, horizontal_alignment="right", vertical_alignment="center", key="person"):
        st.caption(f":material/person: {escape_text(person.label, 60)}", width="content", help=_describe(person.email))
        _draw_sign_out()


def list_providers() -> dict[str, str]:
    """Return the providers of the section [auth]: the name that `st.login` takes -> the label of its button."""
    section = st.secrets["auth"].to_dict()
    named = [name for name, value in section.items() if isinstance(value, Mapping) and "client_id" in value]
    found = {DEFAULT_PROVIDER: "Sign in"} if "client_id" in section else {}
    return found | {name: f"Sign in with {name.title()}" for name in named}


def _draw_refusal(error: SignInError) -> None:
    if _has_session():
        st.title("You can't use this app", anchor=False)
        show_error(error)
        _draw_sign_out()
    elif not _can_sign_in():
        st.title("Sign-in does not work", anchor=False)
        show_error(error)
    else:
        st.title("Sign in", anchor=False)
        st.write("This app is for people on its owner's list. Everybody works in a folder of their own.")
        _draw_sign_in()


def _draw_sign_in() -> None:
    for provider, label in list_providers().items():
        if not st.button(label, icon=":material/login:", type="primary", key=f"sign_in:{provider}"):
            continue
        try:
            st.login(provider or None)
        except StreamlitMissingAuthlibError:
            show_error(SignInError("The package Authlib is missing.", "Install it: pip install -r requirements.txt"))
        except StreamlitAuthError as error:
            message = f"The section [auth] of the app's secrets file can't be used: {error}"
            show_error(SignInError(message, "The owner of the app has to correct it; docs/security.md has examples."))


def _draw_sign_out() -> None:
    if st.button("Sign out", icon=":material/logout:", type="tertiary", key="sign_out"):
        st.logout()


def _has_session() -> bool:
    return bool(st.user.get("is_logged_in", False))


def _can_sign_in() -> bool:
    try:
        return is_sign_in_configured() and bool(list_providers())
    except (SignInError, KeyError):
        return False


def _describe(email: str) -> str | None:
    return f"Signed in as {escape_text(email, 200)}. Your runs and files are visible to you only." if email else None
