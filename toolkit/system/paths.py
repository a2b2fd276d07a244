"""Where the project and its bundled files are, in a clone and as an installed package."""

from __future__ import annotations

from pathlib import Path

import toolkit

PROJECT_ROOT = Path(toolkit.__file__).resolve().parent.parent
"""The folder that holds `toolkit/`. Every child process is started in it."""

ASSETS = PROJECT_ROOT / "toolkit" / "assets"
PRESETS = PROJECT_ROOT / "toolkit" / "presets"
STATIC = PROJECT_ROOT / "toolkit" / "ui" / "static"

_PACKAGED_APP = PROJECT_ROOT / "toolkit" / "_app"
APP_ROOT = _PACKAGED_APP if _PACKAGED_APP.is_dir() else PROJECT_ROOT
"""The folder that holds `app.py`, `pages/` and `.streamlit/`. In a wheel they are inside the package."""
APP_FILE = APP_ROOT / "app.py"
