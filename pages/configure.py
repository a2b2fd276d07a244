"""The Configure page: a form for every setting, the forecast, and the Start button."""

from __future__ import annotations

from toolkit.ui.configure import configure_view, preset_bar
from toolkit.ui.frame import page
from toolkit.ui.workspace.review import review_draft

with page.page_frame("configure", "All settings of a run. The defaults work; change only what you need."):
    preset_bar.draw_preset_bar()
    configure_view.draw_settings(review_draft())
