"""Every setting as a form, what they would start, and Start."""

from __future__ import annotations

from toolkit.ui.configure import configure_view, preset_bar
from toolkit.ui.frame import page
from toolkit.ui.workspace.review import review

with page.page("configure", "Every setting of a run. The defaults work: change what you know, leave the rest."):
    preset_bar.preset_row()
    configure_view.settings(review())
