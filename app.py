"""The entry point: `streamlit run app.py`. What every page needs is `ui/chrome.py`'s."""

from __future__ import annotations

import streamlit as st

from toolkit.ui import chrome, receiving, unattended
from toolkit.ui.draft_file import home

if __name__ == "__main__":  # the script, run for every visit
    st.set_page_config(page_title="Finetuning Toolkit", page_icon=chrome.ICON, layout="wide")
    chrome.navigation().run()
else:  # the server, made once by `streamlit run`
    app = st.App(__file__, lifespan=unattended.lifespan, middleware=[receiving.middleware(home)])
