"""Every setting as a form, what they would start, and Start."""

from __future__ import annotations

from toolkit.ui.configure import configure_view, preset_bar
from toolkit.ui.frame import page
from toolkit.ui.workspace.review import review_draft

with page.page_frame("configure", "Every setting of a run. The defaults work: change what you know, leave the rest."):
    preset_bar.draw_preset_bar()
    configure_view.draw_settings(review_draft())
