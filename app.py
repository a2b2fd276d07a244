"""The entry point: `streamlit run app.py`. Page config and navigation; what every page needs is `ui/chrome.py`'s."""

from __future__ import annotations

import streamlit as st

from toolkit.ui import chrome

st.set_page_config(page_title="Finetuning Toolkit", page_icon=":material/tune:", layout="wide")
st.navigation(
    [
        st.Page(page.file, title=page.title, icon=page.icon, url_path=page.url, default=page is chrome.PAGES["data"])
        for page in chrome.PAGES.values()
    ],
    position="top",
).run()
