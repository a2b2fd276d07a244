"""The catalogue of 64 ways in which data goes wrong, and where each is held: one place that says that none is left out.

A row names files of `test_hostile.py` (each with its whole report in `golden_reports.json`), tests, or both.
"""

from __future__ import annotations

import ast
import json
from functools import cache

import pytest

from tests.fakes.golden import check
from tests.scenarios.data.test_hostile import CASES, GOLDEN
from toolkit.system.paths import PROJECT_ROOT

SITUATIONS = ("scenarios/data", "pages", "scenarios/worker")
"""Folders of tests with reports of rows that are about more than reading, each in a golden_situations.json."""
DATA, CHOICES, SPLIT, PROMPT = (
    "scenarios/data/test_hostile",
    "data/test_read_options",
    "data/examples/test_split",
    "data/examples/test_templates",
)

# number: (what, cases of test_hostile.py, tests as "file::name")
ROWS: dict[int, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    1: ("empty file", ("empty csv", "empty json"), ()),
    2: ("no rows", ("blank lines csv", "blank lines json", "header only", "no rows: []", "no rows: {}", "no keys"), ()),
    3: ("UTF-8 mark, CSV", ("utf-8 mark",), ()),
    4: ("UTF-8 mark, JSON", ("utf-8 mark in json",), ()),
    5: ("UTF-16 with mark", ("utf-16", "utf-16 json"), ()),
    6: ("UTF-16 without mark", ("utf-16 unmarked", "utf-16 unmarked, big"), ()),
    7: ("cp1252", ("cp1252",), (f"{CHOICES}::test_every_usual_encoding_is_offered_with_what_it_says",)),
    8: ("mixed encodings", ("mixed encodings",), (f"{CHOICES}::test_mixed_encodings_are_repaired_on_request",)),
    9: ("half a character", ("half a character",),
        (f"{CHOICES}::test_nul_and_unpaired_surrogates_are_repaired_on_request",)),
    10: ("NUL in a cell", ("nul in a cell", "nul in a cell, json"),
         (f"{CHOICES}::test_nul_and_unpaired_surrogates_are_repaired_on_request",)),
    11: ("no text at all", ("NULs csv", "excel csv", "gzip csv", "old excel", "pdf"), ()),
    12: ("zip bomb", ("gzip csv", "gzip json"),
         ("data/readers/test_parquet_reader::test_a_decompression_bomb_is_refused",)),
    13: ("2 GB upload", (), ("pages/test_data::test_the_uploader_states_its_limit_and_the_alternative",)),
    14: ("huge cell", ("cell of a million", "cell of more", "cell of more, json"), ()),
    15: ("20,000 columns", ("20,000 columns", "too many keys"), ()),
    16: ("too many cells", ("too many cells", "many bad rows"),
         (f"{CHOICES}::test_rows_that_do_not_fit_are_skipped_or_filled",)),
    17: ("first row longer than the header", ("first row longer than the header",), ()),
    18: ("trailing comma", ("trailing comma in rows", "trailing comma everywhere", "trailing comma sometimes"), ()),
    19: ("too few cells", ("too few cells",), (f"{CHOICES}::test_rows_that_do_not_fit_are_skipped_or_filled",)),
    20: ("other delimiters", ("semicolons", "tabs", "bars"),
         (f"{CHOICES}::test_the_delimiter_is_detected_and_can_be_chosen",)),
    21: ("open quote", ("open quote",), ()),
    22: ("newlines", ("newlines", "carriage returns alone"), ()),
    23: ("one column", ("one column",), ()),
    24: ("equal names", ("equal names",), ()),
    25: ("nearly equal names", ("names of any kind", "names with spaces", "equal but for spaces"), ()),
    26: ("no name", ("no name", "no last name"), ()),
    27: ("names that are code", ("names that are code elsewhere", "braces in a name"),
         ("scenarios/data/test_fuzz::test_any_column_can_be_used",)),
    28: ("NA, null, nan as text", ("words",), ()),
    29: ("007, 1e5, True", ("numbers",), ()),
    30: ("a missing label", ("a missing label",), ()),
    31: ("missing cells", ("absent keys",), ("pages/test_data::test_an_upload_is_stored_and_its_widget_cleared",)),
    32: ("NaN in JSON", ("NaN", "Infinity", "-Infinity"), (f"{CHOICES}::test_nan_is_read_as_text_on_request",)),
    33: ("lists and lines", ("lines", "one line", "objects one after the other"), ()),
    34: ("torn last line", ("torn last line", "torn list"),
         (f"{CHOICES}::test_an_incomplete_last_row_is_skipped_on_request",)),
    35: ("wrapped list", ("wrapped", "two lists"), (f"{CHOICES}::test_one_of_several_lists_is_chosen",)),
    36: ("object of columns", ("object of columns", "uneven columns"), ()),
    37: ("top level null", ("top level null", "top level 12", "top level true"), ()),
    38: ("list of scalars", ("list of numbers", "list of lists", "mixed rows"), ()),
    39: ("nested, chats", ("nested", "chats", "one chat", "openai's older form"),
         (f"{CHOICES}::test_openai_files_are_recognized",)),
    40: ("mixed types", ("mixed types", "numbers as written"), ()),
    41: ("repeated key", ("repeated key", "repeated key in a line"), ()),
    42: ("long number, deep nesting", ("long number", "deep nesting", "deep nesting, lines"), ()),
    43: ("nearly JSON", ("comma after the last row", "python", "comments", "web page json"), ()),
    44: ("0, 1, 2 rows", (), (f"{SPLIT}::test_sizes_that_do_not_fit",)),
    45: ("sizes that don't fit", (), (f"{SPLIT}::test_sizes_that_do_not_fit",)),
    46: ("0.7 + 0.30000000000000004", (), (f"{SPLIT}::test_sizes",)),
    47: ("1, 1.0 and True", (), (f"{SPLIT}::test_sizes_that_do_not_fit",)),
    48: ("template with an unknown column", (), (f"{PROMPT}::test_mistakes_name_their_place",)),
    49: ("template with formats", (), (f"{PROMPT}::test_mistakes_name_their_place",)),
    50: ("template with attributes", (), (f"{PROMPT}::test_mistakes_name_their_place",)),
    51: ("template with a padding of 2 GB", (), (f"{PROMPT}::test_mistakes_name_their_place",)),
    52: ("doubled braces", (), ("scenarios/data/test_fuzz::test_template_text_compiles_or_is_refused",)),
    53: ("braces in a cell", (), (f"{PROMPT}::test_a_cell_is_never_read_as_a_template",)),
    54: ("template without a column", (), (f"{PROMPT}::test_problems_stand_under_their_field",)),
    55: ("rows longer than the limit", (), ("worker/tokens/test_labels::test_truncated_and_lost_rows_are_counted",)),
    56: ("names of runs", (), ("runs/test_run_dir::test_a_name_never_becomes_part_of_a_path",)),
    57: ("symbolic links", (), ("data/storage/test_open_table::test_what_is_no_file_is_refused",)),
    58: ("formulas in an export", ("formulas and markup",),
         ("evaluation/test_download::test_formulas_are_escaped_in_csv_and_unchanged_in_json",)),
    59: ("markup in cells", ("formulas and markup",), ("pages/test_hostile_text::test_every_page_shows_text_as_text",)),
    60: ("hostile settings files", (),
         ("settings/test_yaml_file::test_unreadable_yaml_is_rejected_with_a_message_and_a_hint",)),
    61: ("hostile adapters", (),
         ("worker/models/test_adapter_switch::test_only_plain_lora_adapters_are_attached",)),
    62: ("two uploads at once", (), ("data/storage/test_open_table::test_two_threads_read_a_file_once",)),
    63: ("file edited after the upload", (),
         ("data/storage/test_open_table::test_a_file_of_the_user_is_copied_by_content",)),
    64: ("disk and folder", (), ("runs/test_preflight::test_problems_of_the_disk",)),
}  # fmt: skip


@cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((PROJECT_ROOT / "tests" / f"{file}.py").read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_no_row_is_left_out() -> None:
    assert list(ROWS) == list(range(1, 65))


@pytest.mark.parametrize("number", ROWS)
def test_every_row_is_held_by_something_that_is_there(number: int) -> None:
    _, cases, tests = ROWS[number]
    assert cases or tests
    golden = json.loads(GOLDEN.read_text())
    assert set(cases) <= {case.name for case in CASES}
    assert set(cases) <= set(golden)
    for name in tests:
        file, _, test = name.partition("::")
        assert test in names_in(file), name


def test_what_is_about_more_than_reading_has_its_reports() -> None:
    told: dict[int, int] = {}
    for folder in SITUATIONS:
        golden = PROJECT_ROOT / "tests" / folder / "golden_situations.json"
        reports = json.loads(golden.read_text())
        check(golden, reports)
        for report in reports.values():
            told[report["row"]] = told.get(report["row"], 0) + 1
    without_cases = {number for number, (_, cases, _) in ROWS.items() if not cases}
    assert set(told) == without_cases
    assert sum(told.values()) > 80


def test_every_report_says_what_and_what_next() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert set(golden) == {case.name for case in CASES}
    for name, report in golden.items():
        if "message" in report:
            assert report["message"][-1] in ".:…", name
            assert report["hint"], name
            assert "Traceback" not in report["message"]
        else:
            assert report["rows"] > 0
