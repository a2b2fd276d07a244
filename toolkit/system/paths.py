"""Where the project and its bundled files lie."""

from __future__ import annotations

from pathlib import Path

import toolkit

PROJECT_ROOT = Path(toolkit.__file__).resolve().parent.parent
"""The folder that holds `app.py`, `pages/` and `toolkit/`: what every child process is started in."""

ASSETS = PROJECT_ROOT / "toolkit" / "assets"
PRESETS = PROJECT_ROOT / "toolkit" / "presets"
STATIC = PROJECT_ROOT / "toolkit" / "ui" / "static"
