"""What the pages import is found in their sources."""

from __future__ import annotations

from importlib.util import find_spec

from toolkit.system.paths import APP_ROOT
from toolkit.ui.frame.page import PAGES
from toolkit.ui.frame.startup import list_page_imports


def test_what_a_page_imports() -> None:
    assert list_page_imports("from pathlib import Path\nfrom toolkit.ui.elements import charts, words\nfrom toolkit.runs.run_dir import x\n") == [
        "toolkit.ui.elements.charts", "toolkit.ui.elements.words", "toolkit.runs.run_dir",
    ]  # fmt: skip


def test_every_page_names_modules_that_are_there() -> None:
    for page in PAGES.values():
        names = list_page_imports((APP_ROOT / page.file).read_text(encoding="utf-8"))
        assert "toolkit.ui.frame.page" in names
        assert all(find_spec(name) for name in names)
