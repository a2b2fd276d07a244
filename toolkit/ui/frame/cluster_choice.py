"""Where the runs of this folder train: on this machine, or on a Ray cluster."""

from __future__ import annotations

import streamlit as st

from toolkit.cluster.choice import OPEN_CLUSTER_WARNING, choose_cluster, choose_this_machine
from toolkit.cluster.setting import read_cluster
from toolkit.errors import RunError
from toolkit.system.printable import format_plural
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.frame import page
from toolkit.ui.people.signed_in import find_person
from toolkit.ui.workspace import workspace

ADDRESS_HELP = (
    "Host and port of the head node, such as 10.0.0.5:6379, or auto for the cluster on this machine. The output folder "
    "must be at the same path on every node: docs/cluster.md."
)
_FOUND = "cluster_found"


def draw_cluster_choice() -> None:
    """Draw an expander with the choice between this machine and a Ray cluster; nothing for a person who signed in."""
    if find_person() is not None:
        return  # an address of their choice would run that cluster's programs on this server
    cluster = read_cluster(workspace.current_save_dir())
    where = "on this machine" if cluster is None else f"on the Ray cluster at {escape_text(cluster.address)}"
    with st.expander(f"Runs train {where}", icon=":material/hub:"):
        address = st.text_input("Ray cluster", cluster.address if cluster else "auto", help=ADDRESS_HELP, max_chars=300)
        with st.container(horizontal=True):
            wants_cluster = st.button("Train on this cluster", key="choose_cluster")
            wants_machine = cluster is not None and st.button("Train on this machine", key="leave_cluster")
        st.caption("Runs that are training stay where they are.")
        if found := st.session_state.pop(_FOUND, None):
            summary, is_open = found
            st.success(summary)
            if is_open:
                st.warning(OPEN_CLUSTER_WARNING)
        if wants_cluster:
            _choose_cluster(address)
        elif wants_machine:
            choose_this_machine(workspace.current_save_dir())
            st.rerun()


def _choose_cluster(address: str) -> None:
    save_dir = workspace.current_save_dir()
    try:
        with st.spinner("Looking at the cluster; its largest node is examined"):
            cluster, view = choose_cluster(save_dir, address)
    except RunError as error:
        show_error(error)
        return
    at_once = format_plural(cluster.slots, "run")
    st.session_state[_FOUND] = (f"{view.summary}. {at_once} at the same time.", not view.asks_for_token)
    page.get_supervisor(str(save_dir)).check_now()
    st.rerun()
