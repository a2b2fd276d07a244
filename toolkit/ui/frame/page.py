"""The frame of every page: network guard, supervisor, status line, error boundary, and the link to the next page.

A page wraps its content in `with page_frame(...)` and so works on its own when a deep link runs it before `app.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import streamlit as st
from streamlit.errors import StreamlitAPIException

from toolkit.access.token_file import NETWORK_VARIABLE, is_network_allowed
from toolkit.errors import Problem
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.studies.methods.advance import advance_studies
from toolkit.system.paths import STATIC
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_lines, escape_text
from toolkit.ui.elements.theme import apply_theme
from toolkit.ui.frame import network_guard
from toolkit.ui.frame.status_strip import show_status_line
from toolkit.ui.people.sign_in_page import draw_person, stop_unless_signed_in
from toolkit.ui.workspace import workspace
from toolkit.ui.workspace.run_entries import is_first_visit

PRODUCT = "Finetuning Toolkit"
PRODUCT_LINE = "Fine-tune a language model on your own data, on this machine, and measure what it has gained."
PAGE_ICON = str(STATIC / "icon.png")
"""The icon of the browser tab as a file: Streamlit would load a named icon from a font server on the internet."""


@dataclass(frozen=True)
class PageInfo:
    """A page of the app. file: relative to the app's folder. url: its path in the address bar."""

    file: str
    title: str
    icon: str
    url: str


PAGES = {
    "data": PageInfo("pages/data.py", "Data", ":material/table_view:", "home"),
    "configure": PageInfo("pages/configure.py", "Configure", ":material/tune:", "configure"),
    "runs": PageInfo("pages/runs.py", "Runs", ":material/show_chart:", "runs"),
    "playground": PageInfo("pages/playground.py", "Playground", ":material/forum:", "playground"),
    "evaluate": PageInfo("pages/evaluate.py", "Evaluate", ":material/balance:", "evaluate"),
    "studies": PageInfo("pages/studies.py", "Studies", ":material/science:", "studies"),
}


def build_navigation() -> st.Page:
    """Build the app's menu and return the requested page, which `app.py` runs."""
    st.session_state["navigated"] = True
    return st.navigation(
        [
            st.Page(page.file, title=page.title, icon=page.icon, url_path=page.url, default=key == "data")
            for key, page in PAGES.items()
        ]
        + [st.Page(_redirect_to_data, title="Data", url_path="data", visibility="hidden")],
        position="top",
    )


def _redirect_to_data() -> None:
    """Redirect "/data" to the Data page, which Streamlit serves at "/" because it is the default page."""
    st.switch_page(PAGES["data"].file)


def _redirect_through_app() -> None:
    """Rerun through `app.py` if Streamlit runs a page of the pages/ folder directly, as for a server's first deep link.

    A page that is itself the main script, as in a test, runs without the app.
    """
    if st.session_state.get("navigated"):
        return
    st.set_page_config(page_icon=PAGE_ICON)
    try:
        build_navigation()
    except StreamlitAPIException:
        return
    st.rerun()


@contextmanager
def page_frame(key: str, lead: str = "") -> Iterator[None]:
    """Frame a page: `with page_frame("runs", "One sentence."):`. Stop the script if the network guard refuses.

    key: of PAGES. lead: the sentence below the title. The first page of a new workspace introduces the app instead. An
    exception inside is shown as a message on the page.
    """
    _redirect_through_app()
    st.set_page_config(page_title=f"{PAGES[key].title} · {PRODUCT}", layout="wide")
    st.set_option("client.showErrorDetails", "none")
    _stop_if_exposed(signed_in=stop_unless_signed_in())
    with error_boundary():
        apply_theme()
        draw_person()
        workspace.refresh_workspace()
        get_supervisor(str(workspace.current_save_dir()))
        if key == "data" and is_first_visit():
            st.title(PRODUCT, anchor=False)
            st.markdown(PRODUCT_LINE)
        else:
            _draw_head(key, lead)
        _show_workspace_notice()
    with error_boundary():
        yield


def _draw_head(key: str, lead: str) -> None:
    left, right = st.columns([2, 3], vertical_alignment="center")
    left.title(PAGES[key].title, anchor=False)
    with right:
        show_status_line(brief=key == "runs")
    if lead:
        st.caption(lead)


def show_problem(problem: Problem) -> None:
    """Show a problem with its hint: an error in red, a warning in orange."""
    color, icon = ("red", "error") if problem.severity == "error" else ("orange", "warning")
    st.markdown(f":{color}[:material/{icon}: {escape_text(problem.message, 1000)}] {escape_text(problem.hint, 1000)}")


@st.cache_resource(show_spinner=False)
def get_supervisor(folder: str) -> Supervisor:
    """Return the app's only supervisor of a workspace; the first call starts its thread."""
    supervisor = Supervisor(Path(folder), on_run_end=advance_studies)
    supervisor.start()
    return supervisor


def link_to_page(key: str, label: str = "") -> None:
    """Draw a link to another page, or a caption if this page runs without the app."""
    target = PAGES[key]
    try:
        st.page_link(target.file, label=label or target.title, icon=target.icon)
    except StreamlitAPIException:
        st.caption(f"{label or target.title} (start the app to open this page)")


def go_to_page(key: str, run: str | None = None) -> NoReturn:
    """Switch to another page, and choose a run there if one is given."""
    if run is not None:
        st.session_state["run_id"] = run
    st.switch_page(PAGES[key].file, query_params={"run": run} if run else None)


def show_next_step(key: str, label: str, missing: Sequence[str] = ()) -> None:
    """Draw the button to the next page at the end of a page.

    missing: sentences on what the user has to do first; with any, the button is disabled.
    """
    st.divider()
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        if st.button(
            label,
            icon=":material/arrow_forward:",
            icon_position="right",
            disabled=bool(missing),
            key=f"next_{key}",
        ):
            go_to_page(key)
        if missing:
            sentences = " ".join(escape_text(sentence, 500) for sentence in missing)
            st.caption(f":material/pending: First: {sentences}")


def _stop_if_exposed(signed_in: bool) -> None:
    host, shared = st.context.headers.get("Host"), is_network_allowed()
    refused = network_guard.check_network_exposure(st.get_option, host, signed_in, shared)
    if refused is None:
        return
    st.title("The app is not available over this network", anchor=False)
    for reason in refused.reasons:
        st.error(escape_text(reason, 500), icon=":material/gpp_maybe:")
    st.write(
        "Anyone who can open this app can read its data and start programs on this machine. "
        "Start it with this command, so that only this machine can reach it:"
    )
    st.code(refused.command, language=None, wrap_lines=True)
    st.caption(
        "To use it from another computer, open an SSH tunnel to this machine. To open it to a network with its access "
        f"token, set `{NETWORK_VARIABLE}=1`, after you have read docs/security.md."
    )
    st.stop()


def _show_workspace_notice() -> None:
    notice = st.session_state.pop("workspace_notice", None)
    if notice:
        st.warning(escape_lines(notice), icon=":material/restore_page:")
