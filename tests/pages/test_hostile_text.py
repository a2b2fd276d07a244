"""Names and cells that would be markup, links, formulas or code anywhere else: every page shows them as text."""

from __future__ import annotations

import csv
import io
import re

import pytest

from tests.pages.conftest import Stage

NASTY = (
    "<script>alert(1)</script> ![x](http://evil.example/x.png) $\\int$ :material/bug_report: "
    "[l](http://evil.example) **b**"
)
PAGES = ("data", "configure", "runs", "playground", "evaluate", "studies")
_RAW = re.compile(r"(?<!\\)(<script|!\[x\]|\$\\int|:material/bug_report:|\[l\]\(|\*\*b\*\*)")


def upload_bytes() -> bytes:
    out = io.StringIO()
    rows = [[NASTY, "answer"], *[[f"{NASTY} {i}", "=cmd|x"] for i in range(12)]]
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


@pytest.fixture
def hostile(stage: Stage) -> Stage:
    app = stage.page("data")
    app.button_group(key="source_way").set_value("upload").run()
    stage.checked(app.file_uploader[0].upload(f"{NASTY.replace('/', '')}.csv", upload_bytes(), "text/csv").run())
    stage.finished(NASTY)
    return stage


@pytest.mark.parametrize("page", PAGES)
def test_every_page_shows_text_as_text(hostile: Stage, page: str) -> None:
    app = hostile.page(page)
    kinds = (app.title, app.subheader, app.markdown, app.caption, app.error, app.warning, app.info)
    for kind in kinds:
        for entry in kind:
            assert not _RAW.search(str(entry.value)), entry.value
    for widgets in (app.button, app.selectbox, app.text_input, app.text_area, app.toggle, app.radio):
        for widget in widgets:
            assert not _RAW.search(str(widget.label)), widget.label
