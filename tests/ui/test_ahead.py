"""What the pages import is found in their sources."""

from __future__ import annotations

from importlib.util import find_spec

from toolkit.ui.ahead import _ROOT, imported
from toolkit.ui.chrome import PAGES


def test_what_a_page_imports() -> None:
    assert imported("from pathlib import Path\nfrom toolkit.ui import a, b\nfrom toolkit.runs.rundir import x\n") == [
        "toolkit.ui.a", "toolkit.ui.b", "toolkit.runs.rundir",
    ]  # fmt: skip


def test_every_page_names_modules_that_are_there() -> None:
    for page in PAGES.values():
        names = imported((_ROOT / page.file).read_text(encoding="utf-8"))
        assert "toolkit.ui.chrome" in names
        assert all(find_spec(name) for name in names)
