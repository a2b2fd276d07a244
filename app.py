"""Entry point of the app: `streamlit run app.py`."""

from __future__ import annotations

import streamlit as st

from toolkit.system.printable import log_plain_text
from toolkit.system.private_files import restrict_new_files
from toolkit.ui.elements import large_uploads
from toolkit.ui.frame import access_guard, origin_guard, page, startup
from toolkit.ui.people import sign_in_guard
from toolkit.ui.people.signed_in import app_folder

if __name__ == "__main__":  # Streamlit runs the script once for every page run
    st.set_page_config(page_title="Finetuning Toolkit", page_icon=page.PAGE_ICON, layout="wide")
    page.build_navigation().run()
else:  # `streamlit run` imports the module once to find the ASGI app
    restrict_new_files()
    log_plain_text()
    # the first one runs first
    guards = [origin_guard.origin_guard_middleware(), *access_guard.access_guard_middleware()]
    guards += [sign_in_guard.sign_in_guard_middleware(), large_uploads.middleware(app_folder)]
    app = st.App(__file__, lifespan=startup.lifespan, middleware=guards)
