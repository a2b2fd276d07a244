"""What every page has around it: the guard, the supervisor, the strip of what is running, the error boundary, and the
way on to the next page. A page wraps itself in `with chrome.page(...)`, so it stands alone when a deep link runs it
before `app.py` did. Knows no page's content.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import streamlit as st
from streamlit.errors import StreamlitAPIException

from toolkit.errors import Problem
from toolkit.lifecycle.supervisor import Supervisor
from toolkit.system.paths import STATIC
from toolkit.ui.elements.error_boundary import error_boundary
from toolkit.ui.elements.escape import escape_lines, escape_text
from toolkit.ui.elements.theme import apply_theme
from toolkit.ui.frame import network_guard
from toolkit.ui.frame.status_strip import show_status_line
from toolkit.ui.workspace import workspace

PAGE_ICON = str(STATIC / "icon.png")
"""A file of ours: Streamlit fetches its own icons for the browser's tab from a font server."""


@dataclass(frozen=True)
class PageInfo:
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
    """The app's menu, and the page that was asked for; `app.py` runs it."""
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
    """The first page is at "/", whatever its own url_path: whoever types "/data" gets there too."""
    st.switch_page(PAGES["data"].file)


def _redirect_through_app() -> None:
    """While a folder named pages/ exists, the first deep link of a server runs a page without `app.py`: go back there.

    A page that is itself the main script (a test) stays alone.
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
    """The frame of a page: `with chrome.page("runs", "one sentence"):`. Stops the script when the guard refuses.

    An error inside becomes words on the page, and the rest of the app stays usable.
    """
    _redirect_through_app()
    st.set_page_config(page_title=f"{PAGES[key].title} · Finetuning Toolkit", layout="wide")
    st.set_option("client.showErrorDetails", "none")
    _stop_if_exposed()
    with error_boundary():
        apply_theme()
        workspace.refresh_workspace()
        get_supervisor(str(workspace.current_save_dir()))
        name, going = st.columns([2, 3], vertical_alignment="center")
        name.title(PAGES[key].title, anchor=False)
        with going:
            show_status_line()
        if lead:
            st.caption(lead)
        _show_workspace_notice()
    with error_boundary():
        yield


def show_problem(problem: Problem) -> None:
    """One remark under its field: an error in red, a warning in amber."""
    colour, icon = ("red", "error") if problem.severity == "error" else ("orange", "warning")
    st.markdown(f":{colour}[:material/{icon}: {escape_text(problem.message, 1000)}] {escape_text(problem.hint, 1000)}")


@st.cache_resource(show_spinner=False)
def get_supervisor(folder: str) -> Supervisor:
    """The one supervising thread of this app for a workspace, started on the first call."""
    watcher = Supervisor(Path(folder))
    watcher.start()
    return watcher


def link_to_page(key: str, label: str = "", icon: str | None = None) -> None:
    """A link to another page; words alone when this page runs without the app around it."""
    target = PAGES[key]
    try:
        st.page_link(target.file, label=label or target.title, icon=icon or target.icon)
    except StreamlitAPIException:
        st.caption(f"{label or target.title} (open the app to go there)")


def go_to_page(key: str, run: str | None = None) -> NoReturn:
    """Leave for another page, with a run chosen there."""
    if run is not None:
        st.session_state["run_id"] = run
    st.switch_page(PAGES[key].file, query_params={"run": run} if run else None)


def show_next_step(key: str, label: str, missing: Sequence[str] = ()) -> None:
    """The end of a page: the way on, or what is missing before it can be taken (plain sentences)."""
    st.divider()
    row = st.container(horizontal=True, vertical_alignment="center", gap="medium")
    with row:
        if st.button(label, type="primary", icon=":material/arrow_forward:", icon_position="right",
                     disabled=bool(missing), key=f"next_{key}"):  # fmt: skip
            go_to_page(key)
        if missing:
            st.caption(
                ":material/pending: Before that: " + " ".join(escape_text(sentence, 500) for sentence in missing)
            )


def _stop_if_exposed() -> None:
    signed_in = bool(st.user.get("is_logged_in", False))
    refused = network_guard.check_network_exposure(st.get_option, st.context.headers.get("Host"), signed_in)
    if refused is None:
        return
    st.title("Not shown to this network", anchor=False)
    for reason in refused.reasons:
        st.error(escape_text(reason, 500), icon=":material/gpp_maybe:")
    st.write("Whoever reaches this app can read its data and start programs on this machine. Start it like this:")
    st.code(refused.command, language=None, wrap_lines=True)
    st.caption("From another computer, reach it through an SSH tunnel to this address.")
    st.stop()


def _show_workspace_notice() -> None:
    notice = st.session_state.pop("workspace_notice", None)
    if notice:
        st.warning(escape_lines(notice), icon=":material/restore_page:")
