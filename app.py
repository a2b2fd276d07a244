"""The entry point: `streamlit run app.py`. What every page needs is `ui/chrome.py`'s."""

from __future__ import annotations

import streamlit as st

from toolkit.ui import chrome

st.set_page_config(page_title="Finetuning Toolkit", page_icon=chrome.ICON, layout="wide")
chrome.navigation().run()
