"""Tables as databases print them and as Markdown draws them."""

from __future__ import annotations

import pytest

from tests.data.conftest import Opener
from toolkit.data.readers.formats import kind_of_content

ROWS = [(f"Where is lamp {at}?", f'In "aisle" {at}.') for at in range(8)]
BARS = "".join(f"| {asked} | {said} |\n" for asked, said in ROWS)
OPEN = "".join(f" {asked} | {said}\n" for asked, said in ROWS)
RULE = "+----------+--------+\n"
DRAWN = {
    "psql": f" question | answer \n----------+--------\n{OPEN}(8 rows)\n\n",
    "mysql": f"{RULE}| question | answer |\n{RULE}{BARS}{RULE}8 rows in set (0.00 sec)\n",
    "grid": f"{RULE}| question | answer |\n{RULE.replace('-', '=')}{BARS.replace(chr(10), chr(10) + RULE)}",
    "markdown": f"| question | answer |\n|:--|---:|\n{BARS}",
    "markdown without outer bars": f"question | answer\n--- | ---\n{OPEN}",
    "duckdb": "┌──────────┬────────┐\n│ question │ answer │\n│ varchar  │ varchar│\n├──────────┼────────┤\n"
    + BARS.replace("|", "│") + "└──────────┴────────┘\n",
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_drawn_table_is_read_without_its_lines(open_bytes: Opener, name: str) -> None:
    table = open_bytes(DRAWN[name])
    assert table.columns == ("question", "answer")
    assert [tuple(row.values()) for row in table.page(0, 20)] == ROWS
    drawn = "Markdown table" if name.startswith("markdown") else "as databases print it"
    assert [notice for notice in table.notices if drawn in notice] == [*table.notices], "one line says so"


@pytest.mark.parametrize("chosen", ["json", "csv"])
def test_a_drawn_table_is_recognized_by_its_content(chosen: str) -> None:
    assert kind_of_content(DRAWN["psql"].encode(), chosen) == "csv"


def test_the_text_around_a_table_is_counted(open_bytes: Opener) -> None:
    table = open_bytes(f"# Questions\n\nThat people ask.\n\n{DRAWN['markdown']}\nThe end.\n")
    assert table.rows == 8
    assert "3 lines outside the table were ignored." in table.notices


def test_a_small_table_inside_a_cell_draws_no_file(open_bytes: Opener) -> None:
    cell = '"Here:\n| a | b |\n|---|---|\n| 1 | 2 |"'
    for content in (f"question,answer\nShow it,{cell}\nShow it again,{cell}\n", f"a,b\n{cell},x\n{cell},y\n"):
        table = open_bytes(content)
        assert len(table.columns) == 2 and table.rows == 2
        assert not [notice for notice in table.notices if "table" in notice]
