"""Every setting as a form, what they would start, and Start."""

from __future__ import annotations

from toolkit.ui import chrome, finder, transfer
from toolkit.ui.review import review

with chrome.page("configure", "Every setting of a run. The defaults work: change what you know, leave the rest."):
    transfer.preset_row()
    finder.settings(review())
