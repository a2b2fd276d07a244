"""What the app changes in Streamlit's own parts: the words of a lost server, and the menu that is at the top."""

from __future__ import annotations

import tomllib
from pathlib import Path

import streamlit

from toolkit.system.paths import APP_ROOT, STATIC

LOST_SERVER_WORDS = ("Is Streamlit still running?", "Streamlit server is not responding.", "yourscript.py")


def test_the_words_of_a_lost_server_that_are_replaced_are_those_of_the_installed_streamlit() -> None:
    script = (STATIC / "keyboard.js").read_text(encoding="utf-8").replace("\\", "")
    assert all(words in script for words in LOST_SERVER_WORDS)
    bundles = list((Path(streamlit.__file__).parent / "static").rglob("index.*.js"))
    installed = "".join(bundle.read_text(encoding="utf-8") for bundle in bundles)
    missing = [words for words in LOST_SERVER_WORDS if words not in installed]
    assert not missing, "Streamlit's dialog has other words now: change LOST in keyboard.js"
    assert "streamlit run app.py" in script


def test_streamlit_lists_no_pages_at_the_side_before_the_app_has_drawn_its_menu() -> None:
    options = tomllib.loads((APP_ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert options["client"]["showSidebarNavigation"] is False


def test_the_download_that_streamlit_adds_to_tables_is_hidden_under_its_present_name() -> None:
    css = (STATIC / "theme.css").read_text(encoding="utf-8")
    rule = """[data-testid="stElementToolbarButton"]:has(button[aria-label^="Download as CSV"]) { display: none; }"""
    assert rule in css
    bundles = [*(Path(streamlit.__file__).parent / "static").rglob("*.js")]
    installed = "".join(
        bundle.read_text(encoding="utf-8") for bundle in bundles if "ool" in bundle.name or "Data" in bundle.name
    )
    assert "Download as CSV" in installed and "stElementToolbarButton" in installed
