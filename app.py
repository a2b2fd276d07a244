"""The entry point: `streamlit run app.py`. What every page needs is `ui/frame/page.py`'s."""

from __future__ import annotations

import streamlit as st

from toolkit.ui.elements import large_uploads
from toolkit.ui.frame import page, startup
from toolkit.ui.workspace.workspace_file import home_folder

if __name__ == "__main__":  # the script, run for every visit
    st.set_page_config(page_title="Finetuning Toolkit", page_icon=page.PAGE_ICON, layout="wide")
    page.build_navigation().run()
else:  # the server, made once by `streamlit run`
    app = st.App(__file__, lifespan=startup.lifespan, middleware=[large_uploads.middleware(home_folder)])
