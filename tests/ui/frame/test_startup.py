"""The imports of the pages are read from their sources."""

from __future__ import annotations

from importlib.util import find_spec

from toolkit.system.paths import APP_ROOT
from toolkit.ui.frame.page import PAGES
from toolkit.ui.frame.startup import list_page_imports


def test_page_imports_are_read_from_the_source() -> None:
    source = (
        "from pathlib import Path\nfrom toolkit.ui.elements import charts, words\nfrom toolkit.runs.run_dir import x\n"
    )
    expected = ["toolkit.ui.elements.charts", "toolkit.ui.elements.words", "toolkit.runs.run_dir"]
    assert list_page_imports(source) == expected


def test_every_page_imports_existing_modules() -> None:
    for page in PAGES.values():
        names = list_page_imports((APP_ROOT / page.file).read_text(encoding="utf-8"))
        assert "toolkit.ui.frame.page" in names
        assert all(find_spec(name) for name in names)
