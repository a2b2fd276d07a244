"""A press of a button is acted upon once, also if the script is interrupted before it gets there."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest


def page() -> None:
    import streamlit as st

    from toolkit.ui.elements.lasting_button import lasting_button

    if st.session_state.pop("interrupted", False):
        st.rerun()
    if lasting_button("Repair", key="repair"):
        st.session_state["count"] = st.session_state.get("count", 0) + 1
    st.text(str(st.session_state.get("count", 0)))


def test_a_press_survives_an_interruption_and_counts_once() -> None:
    app = AppTest.from_function(page).run()
    app.button(key="repair").click().run()
    assert app.text[0].value == "1"
    app.session_state["interrupted"] = True
    app.button(key="repair").click().run()
    assert app.text[0].value == "2"
    assert app.run().text[0].value == "2"


def test_an_old_press_is_forgotten() -> None:
    app = AppTest.from_function(page).run()
    app.session_state["pressed:repair"] = ("Repair", -100.0)
    assert app.run().text[0].value == "0"
