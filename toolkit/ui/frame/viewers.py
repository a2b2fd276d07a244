"""How often live parts of a page refresh: the less often, the more browser tabs show them.

A refresh takes CPU time from a training on the same machine. Up to 64 tabs together cause no more refreshes than four.
"""

from __future__ import annotations

import threading
import time

from streamlit.runtime import Runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

VIEWER_SECONDS = 100.0
"""Seconds after its last refresh for which a tab counts; longer than the longest interval."""
TABS_AT_FULL_PACE, MOST_TIMES_SLOWER = 4, 16
_seen: dict[str, float] = {}
_guard = threading.Lock()


def is_closed(session: str) -> bool:
    """Return whether the tab of a session has been closed or reloaded."""
    return Runtime.exists() and not Runtime.instance().is_active_session(session)


def slow_down_refreshes() -> int:
    """Count this browser tab, and return by what its intervals are multiplied: 1, 2, 4, 8 or 16."""
    context, now = get_script_run_ctx(suppress_warning=True), time.monotonic()
    with _guard:
        _seen[context.session_id if context is not None else ""] = now
        for name in [name for name, at in _seen.items() if now - at > VIEWER_SECONDS or is_closed(name)]:
            del _seen[name]
        tabs = len(_seen)
    factor = 1
    while factor * TABS_AT_FULL_PACE < tabs and factor < MOST_TIMES_SLOWER:
        factor *= 2
    return factor
