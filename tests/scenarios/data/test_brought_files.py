"""Files in the shapes that people bring: each is read, suggested and judged as its owner means it.

The files are in tests/fixtures/brought; the table of expectations names each of them.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolkit.config import DataConfig
from toolkit.data.doctor.checks import examine_dataset
from toolkit.data.doctor.stray_rows import remove_end_marks
from toolkit.data.examples.column_suggestion import ColumnSuggestion, suggest_for_table
from toolkit.data.examples.renderers import chat_problems, renderer_of
from toolkit.data.examples.split import usable_indices
from toolkit.data.examples.templates import Example, make_renderer
from toolkit.data.findings import Finding
from toolkit.data.python_literals import read_python_messages
from toolkit.data.read_options import DEFAULT_READ_OPTIONS, ReadOptions, UnreadableError
from toolkit.data.readers.formats import file_type_of, recognize_kind
from toolkit.data.readers.read_file import TABLE_FILE, ReadRequest, read_file_to_table
from toolkit.data.table import Table, load_table
from toolkit.errors import DataError

BROUGHT = Path(__file__).parents[2] / "fixtures" / "brought"


@dataclass(frozen=True)
class Brought:
    """A file as the toolkit understands it. data: the settings of the suggestion, None where the user has to choose."""

    table: Table
    suggestion: ColumnSuggestion
    data: DataConfig | None

    @property
    def usable(self) -> int:
        return len(usable_indices(self.table, renderer_of(self.settings, self.table.columns).columns_required))

    @property
    def settings(self) -> DataConfig:
        assert self.data is not None, self.suggestion
        return self.data

    def example(self, row: int = 0) -> Example:
        return renderer_of(self.settings, self.table.columns).example(self.table.row(row))

    def findings(self) -> dict[str, Finding]:
        return {finding.kind: finding for finding in examine_dataset(self.table, self.settings).findings}


Bring = Callable[..., Brought]


@pytest.fixture
def bring(tmp_path: Path) -> Bring:
    """Read a file of the folder, or the given bytes under this name, and suggest what to train on."""

    def brought(name: str, content: bytes | None = None, options: ReadOptions = DEFAULT_READ_OPTIONS) -> Brought:
        path = BROUGHT / name
        if content is not None:
            path = tmp_path / name
            path.write_bytes(content)
        kind = recognize_kind(path, file_type_of(path))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        read_file_to_table(ReadRequest(str(path), str(tmp_path), kind, sha256, name, options))
        table = load_table(tmp_path / TABLE_FILE)
        suggestion = suggest_for_table(table)
        if suggestion.kind == "ask":
            return Brought(table, suggestion, None)
        templates = {"prompt": suggestion.prompt, "prompt_stub": suggestion.completion}
        optional = list(suggestion.optional) or None
        return Brought(
            table, suggestion, DataConfig(**templates, messages=suggestion.messages, optional_columns=optional)
        )

    return brought


def test_a_blank_input_of_an_instruction_loses_no_row(bring: Bring) -> None:
    found = bring("s01_alpaca_blank_input.csv")
    assert found.suggestion.prompt == "{instruction}\n\n{input}"
    assert found.suggestion.optional == ("input",)
    assert (found.table.rows, found.usable) == (20, 20)
    assert "None" not in found.example().prompt
    assert "in 13 rows" in found.suggestion.notes[0]
    finding = found.findings()["empty_text"]
    assert finding.count == 13
    assert finding.fixes[0].settings == {"data.optional_columns": None}


@pytest.mark.parametrize("blank", ["null", '""'])
def test_null_and_empty_text_are_alike(bring: Bring, blank: str) -> None:
    cell = '"a long and free input of its own, number %d"'
    lines = [
        f'{{"instruction": "Name a colour number {i}", "input": {blank if i % 2 else cell % i}, "output": "red {i}"}}'
        for i in range(12)
    ]
    found = bring("alpaca.jsonl", "\n".join(lines).encode())
    assert found.usable == 12
    assert found.example(1).prompt == "Name a colour number 1\n\n"


def test_a_missing_question_is_skipped_and_offered_as_empty_text(bring: Bring) -> None:
    rows = [f"{'' if i == 3 else f'What is {i} plus {i}?'},The sum is {2 * i}." for i in range(12)]
    found = bring("questions.csv", "\n".join(["question,answer", *rows]).encode())
    assert (found.suggestion.optional, found.usable) == ((), 11)
    fill, remove = found.findings()["missing"].fixes
    assert (fill.label, fill.settings) == (
        "Count missing cells as empty text",
        {"data.optional_columns": ["question"]},
    )
    assert remove.action == "drop"


PAIR = ("{question}", "{answer}")
READ: dict[str, tuple[int, tuple[str, str], str]] = {
    "i05_gzip.csv": (20, PAIR, "gzip file was unpacked"),
    "i05_gzip.csv.gz": (20, PAIR, "gzip file was unpacked"),
    "i06_excel.xlsx": (20, PAIR, ""),
    "i06_excel_renamed.csv": (20, PAIR, "is Excel, and it was read as such"),
    "i09_markdown_table.csv": (20, PAIR, "Markdown table"),
    "i13_semicolon_comma_header.csv": (20, ("{Name, Ort}", "{Antwort}"), "split at semicolons and at commas"),
    "i14b_space_after_comma_commas.csv": (20, PAIR, "Spaces in front of quoted cells were ignored"),
    "i23_raw_newline_in_json.json": (20, PAIR, "Line breaks and tabs inside strings were kept in 20 rows"),
    "i23b_raw_tab.jsonl": (20, PAIR, "Line breaks and tabs inside strings were kept in 20 rows"),
    "i24_csv_named.json": (20, PAIR, "is CSV, and it was read as such"),
    "i24b_jsonl_named.csv": (20, PAIR, "is JSON, and it was read as such"),
    "i39_title_row.csv": (20, PAIR, "first 2 rows are a title"),
    "i46_double_encoded.jsonl": (20, PAIR, "encoded twice"),
    "s12_pandas_split.json": (2, PAIR, "pandas calls split"),
    "s12c_pandas_split_20.json": (20, PAIR, "pandas calls split"),
    "s12d_pandas_table.json": (20, ("{q}", "{a}"), "list 'data'"),
    "s22c_bom_in_middle.jsonl": (20, PAIR, "byte order mark inside the file was ignored"),
    "s26_invisible_header.csv": (20, ("{\u200bsentence}", "{label}"), "invisible characters: 'sentence' (U+200B)"),
    "s29b_keyed_single.json": (1, PAIR, "a row under each key"),
}  # fmt: skip
"""File -> rows, suggested pair, words of a notice."""


@pytest.mark.parametrize("name", READ)
def test_a_file_is_read_as_its_owner_means_it(bring: Bring, name: str) -> None:
    rows, pair, words = READ[name]
    found = bring(name)
    assert found.table.rows == rows
    assert (found.suggestion.prompt, found.suggestion.completion) == pair
    assert words in " ".join(found.table.notices)
    assert found.usable == rows
    assert not any(
        cell.startswith(("\ufeff", " ", "|")) for row in found.table.page(0, rows) for cell in row.values() if cell
    )


SUGGESTED: dict[str, tuple[int, tuple[str, str]]] = {
    "S19_UPPER.CSV": (20, PAIR),
    "i01_survey_61_columns.csv": (20, ("", "{Any other comments?}")),
    "i03_answer_dot1.csv": (20, PAIR),
    "i08_tabs_named.csv": (20, PAIR),
    "i11_prompt_response_extra.csv": (20, ("{prompt}", "{response}")),
    "i11b_prompt_answer.csv": (20, ("{prompt}", "{answer}")),
    "i11d_review_sentiment.csv": (20, ("{review}", "{sentiment}")),
    "i11e_label_first.csv": (20, ("{text}", "{label}")),
    "i11f_answer_first.csv": (20, PAIR),
    "i11h_prompt_response_varied.csv": (40, ("{prompt}", "{response}")),
    "i21_crlf_in_cells.csv": (20, PAIR),
    "i26b_one_row.csv": (1, PAIR),
    "i27_numeric_answers.jsonl": (20, PAIR),
    "i48_all_same_answer.csv": (20, PAIR),
    "i49_excel_text_formula.csv": (20, PAIR),
    "s09_preference.jsonl": (20, ("{prompt}", "{chosen}")),
    "s10_context_question_answer.csv": (20, ("{context}\n\n{question}", "{answer}")),
    "s11_pandas_index.csv": (20, ("{problem}", "{justAnswer}")),
    "s11b_unnamed0.csv": (20, ("{problem}", "{justAnswer}")),
    "s27_rare_labels.csv": (40, ("{text}", "{label}")),
    "s30_pandas_index_label.parquet": (20, ("{text}", "{label}")),
    "s33_squad.json": (20, ("{context}\n\n{question}", "{answers}")),
    "x17_input_label_output.csv": (20, ("{Input}", "{Output}")),
}
"""Files that need no notice -> rows, suggested pair."""
SKIPPED = {"i01_survey_61_columns.csv": 5, "s30_pandas_index_label.parquet": 1}
"""Rows without an answer."""


@pytest.mark.parametrize("name", SUGGESTED)
def test_the_pair_of_a_file_is_the_one_that_its_owner_means(bring: Bring, name: str) -> None:
    rows, pair = SUGGESTED[name]
    found = bring(name)
    assert (found.table.rows, found.usable) == (rows, rows - SKIPPED.get(name, 0))
    assert (found.suggestion.kind, found.suggestion.prompt, found.suggestion.completion) == ("pair", *pair)


def test_answers_that_are_marked_as_bad_are_not_learned_unasked(bring: Bring) -> None:
    found = bring("i31_kto.json")
    assert (found.suggestion.kind, found.suggestion.candidates) == ("ask", (("{prompt}", "{completion}"),))
    assert "10 of 20 sampled answers are bad" in found.suggestion.notes[0]


def test_cells_are_kept_as_they_are_written(bring: Bring) -> None:
    assert bring("i21_crlf_in_cells.csv").table.row(0)["answer"] == "First line 0\r\nsecond line"
    assert str(bring("i49_excel_text_formula.csv").table.row(0)["code"]).startswith("=")
    assert (
        bring("i27_numeric_answers.jsonl").table.row(0)["answer"]
        == json.loads(
            (BROUGHT / "i27_numeric_answers.jsonl").read_text().splitlines()[0], parse_int=str, parse_float=str
        )["answer"]
    )


@pytest.mark.parametrize("name", ["x15_ctrl_z.csv", "x16_blank_line_of_spaces.csv"])
def test_a_last_line_that_does_not_fit_is_asked_about(bring: Bring, name: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        bring(name)
    assert "line 22" in caught.value.message
    skip = next(offer for offer in caught.value.offers if offer.label.startswith("Skip"))
    assert bring(name, options=skip.options).table.rows == 20


def test_every_brought_file_is_named_by_a_test() -> None:
    tests = "\n".join(path.read_text() for path in Path(__file__).parents[2].rglob("test_*.py"))
    assert not [file.name for file in BROUGHT.iterdir() if f'"{file.name}"' not in tests]


REFUSED = {
    "i04_list_of_lists.json": "row 1 (line 2, character 2) is a list",
    "i25_html_table.csv": "This is a web page (HTML) with a table",
    "s21b_csv_quote_swallow.csv": "lines 3 to 5",
    "s32_image_column.parquet": "Column 'image' contains bytes",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_read_is_refused_in_words(bring: Bring, name: str) -> None:
    with pytest.raises(DataError) as caught:
        bring(name)
    assert REFUSED[name] in caught.value.message
    assert caught.value.hint


def test_a_quote_that_hides_rows_is_shown_with_both_readings(bring: Bring) -> None:
    found = bring("s21_tsv_loose_quotes.tsv")
    (offer,) = [offer for offer in found.table.offers if offer.doubt]
    assert found.table.rows == 18
    assert "first at line 3" in offer.doubt
    assert offer.doubt in found.table.notices
    assert offer.current
    assert offer.preview[0].startswith('"Wait here,')
    other = bring("s21_tsv_loose_quotes.tsv", options=offer.options)
    assert other.table.rows == 20
    assert other.table.row(2) == {"en": "he called.", "de": "rief er."}
    kept = bring("s21_tsv_loose_quotes.tsv", options=offer.keep)
    assert (kept.table.rows, [one for one in kept.table.offers if one.doubt]) == (18, [])


def test_a_quote_that_hides_rows_among_quoted_cells_is_found(bring: Bring) -> None:
    rows = [f'{i},"Where, please, is item {i}?",Aisle {i}.' for i in range(20)]
    rows[5:8] = ['5,"What is a 5 inch rug?,Small.', "6,Where is it?,Aisle 6.", '7,Is it 5 inch",Yes.']
    content = "\n".join(["id,question,answer", *rows]).encode()
    found = bring("shop.csv", content)
    (offer,) = [offer for offer in found.table.offers if offer.doubt]
    assert found.table.rows == 18
    assert bring("shop.csv", content, offer.options).table.rows == 20


@pytest.mark.parametrize("break_", ["\n", "\r\n"])
def test_a_letter_in_a_cell_raises_no_doubt(bring: Bring, break_: str) -> None:
    rows = [f'"Dear Sir, item {i}{break_}is broken, sadly.{break_}Yours, Ann","We are sorry, Ann."' for i in range(12)]
    found = bring("mail.csv", "\n".join(["mail,reply", *rows]).encode())
    assert found.table.rows == 12
    assert not [offer for offer in found.table.offers if offer.doubt]


ONE, TWO = '{"question": "What?", "answer": "That."}', '{"question": "Why?", "answer": "So."}'
COLUMNS = '{"question": {"%s": "What?", "%s": "Why?"}, "answer": {"%s": "That.", "%s": "So."}}'
COMMA = ONE[:-1] + ",}"


@pytest.mark.parametrize(
    ("name", "content", "rows", "words"),
    [
        ("a.json", COLUMNS % (0, 1, 0, 1), 2, "pandas calls columns"),
        ("a.json", COLUMNS % ("x", "y", "x", "y"), 2, "pandas calls columns"),
        ("a.json", f'{{"0": {ONE}, "1": {TWO}}}', 2, "pandas calls index"),
        ("a.json", f'{{"t-1": {ONE}, "t-2": {TWO}}}', 2, "a row under each key"),
        ("a.jsonl", f"# made by hand\n{COMMA}\n// one more\n{TWO}", 2, "comments and trailing commas"),
        ("a.json", f"[\n /* two */ {COMMA}, // one\n {TWO},\n]", 2, "comments and trailing commas"),
        ("a.jsonl", ONE.replace("What?", "What\nis it?") + f"\n{TWO}\n", 2, "Line breaks and tabs"),
        ("a.json", json.dumps(f"[{ONE}]"), 1, "encoded twice"),
        ("a.jsonl", f"{json.loads(ONE)}\n{json.loads(TWO)},\n", 2, "written as Python text"),
        ("a.txt", f"{json.loads(ONE)}\n{json.loads(TWO)}\n", 2, "written as Python text"),
        ("a.jsonl", f"{ONE},\n{TWO},\n", 2, "trailing commas"),
        ("a.json", f'{{"ok": true, "result": {{"items": [{ONE}, {TWO}]}}}}', 2, "from the object 'result'"),
        ("a.json", f'{{"data": {{"t-1": {ONE}, "t-2": {TWO}}}}}', 2, "a row under each key"),
        ("a.csv", 'question,answer;\n"What?","That, too.";\nWhy?,So.;\n', 2, "ends with a semicolon"),
        ("a.csv", "question;answer;\nWhat?;That.;\nWhy?;So.;\n", 2, "Every line ends with a delimiter"),
        ("a.json", "question;answer\nWhat?;That.\nWhy?;So.\n", 2, "is CSV"),
        ("a.csv", f"[\n{ONE}\n]", 1, "is JSON"),
        ("a.xls", "question\tanswer\nWhat?\tThat.\nWhy?\tSo.\n", 2, "is CSV"),
        ("a.csv", "question,answer\nWhat?,That.\n\ufeffWhy?,So.\n", 2, "byte order mark inside"),
        ("a.csv", '# made 2026\nquestion,answer,id\nWhat?,"That, too.",1\nWhy?,So.,2\n', 2, "first row is a title"),
    ],
)  # fmt: skip
def test_more_files_of_each_kind(bring: Bring, name: str, content: str, rows: int, words: str) -> None:
    found = bring(name, content.encode())
    assert found.table.rows == rows
    assert {"question", "answer"} <= {column.split()[0] for column in found.table.columns}
    assert words in " ".join(found.table.notices)
    assert str(found.table.row(0).get("answer")).startswith("That")


def test_python_values_keep_their_texts_and_equal_keys_are_refused(bring: Bring) -> None:
    rows: list[dict[str, object]] = [
        {"question": 'it\'s "so"\n//', "answer": None},
        {"question": "é", "answer": 1.50, "more": [True, ("a", {"b": 2})]},
    ]
    found = bring("a.jsonl", "".join(f"{row!r}\n" for row in rows).encode()).table
    assert found.row(0) == {"question": 'it\'s "so"\n//', "answer": None, "more": None}
    assert found.row(1) == {"question": "é", "answer": "1.5", "more": '[true, ["a", {"b": 2}]]'}
    for line in ("{'a': 'x', 'a': 'y'}", "{'a': {1, 2}}", "{'a': b'x'}", "{'a': print()}", "{'a': float('nan')}"):
        with pytest.raises(DataError, match="not valid JSON"):
            bring("b.jsonl", f"{{'a': 'first'}}\n{line}\n".encode())


def test_text_inside_strings_of_lenient_json_is_unchanged(bring: Bring) -> None:
    text = 'see http://x.example/#top, /* or */ "that",]'
    content = json.dumps([{"question": text, "answer": "a"}])[:-2] + ",},]"
    assert bring("a.json", content.encode()).table.row(0) == {"question": text, "answer": "a"}


def test_a_spreadsheet_says_which_sheet_was_read(bring: Bring, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    first, second = book.active, book.create_sheet("More")
    for row in (
        ("Support export 2026",),
        ("question", "answer", "since"),
        ("What?", 3.0, date(2026, 1, 2)),
        ("Why?", True),
    ):
        first.append(row)
    second.append(("a", "b"))
    second.append((1, 2.5))
    book.save(tmp_path / "made.xlsx")
    content = (tmp_path / "made.xlsx").read_bytes()
    found = bring("book.xlsx", content)
    assert [tuple(row.values()) for row in found.table.page(0, 9)] == [
        ("What?", "3", "2026-01-02"),
        ("Why?", "TRUE", None),
    ]
    assert "the sheet 'Sheet'" in " ".join(found.table.notices)
    (offer,) = found.table.offers
    assert bring("book.xlsx", content, offer.options).table.row(0) == {"a": "1", "b": "2.5"}


def test_a_row_beyond_the_last_of_excel_is_not_counted_up_to(bring: Bring, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for cells in (("a", "b"), (1, 2), (3, 4)):
        book.active.append(cells)
    book.save(tmp_path / "made.xlsx")
    changed = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "made.xlsx") as given, zipfile.ZipFile(changed, "w") as archive:
        for name in given.namelist():
            archive.writestr(name, given.read(name).replace(b'<row r="3"', b'<row r="1000000000"'))
    assert bring("book.xlsx", changed.getvalue()).table.row(0) == {"a": "1", "b": "2"}


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.xlsx"])
def test_an_archive_that_unpacks_to_too_much_is_refused(bring: Bring, name: str) -> None:
    zeros = b"0" * (65 << 20)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", zeros)
    content = packed.getvalue() if name.endswith("xlsx") else gzip.compress(zeros)
    with pytest.raises(DataError, match="unpacks to more than 64 MB"):
        bring(name, content)


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"a,b\n" * 99)[:-12], gzip.compress(gzip.compress(b"a,b\n1,2\n"))],
    ids=["damaged", "nested"],  # the bytes hold the time: both processes must collect the same names
)
def test_a_damaged_or_nested_gzip_file_is_refused_in_words(bring: Bring, content: bytes) -> None:
    with pytest.raises(DataError, match="gzip file"):
        bring("a.csv.gz", content)


@pytest.mark.parametrize(
    "kind", [pa.struct({"bytes": pa.binary()}), pa.list_(pa.binary()), pa.map_(pa.string(), pa.large_binary())]
)
def test_bytes_inside_structs_and_lists_are_bytes(bring: Bring, kind: pa.DataType) -> None:
    out = io.BytesIO()
    pq.write_table(pa.table({"image": pa.nulls(3, kind), "text": ["a", "b", "c"]}), out)
    with pytest.raises(DataError, match="Column 'image' contains bytes"):
        bring("images.parquet", out.getvalue())


def test_a_column_is_judged_by_all_its_cells(bring: Bring) -> None:
    found = bring("s17b_first_empty_conversation.jsonl")
    assert found.suggestion.messages == "messages"
    assert "Row 1, column 'messages'" in found.table.chats["messages"]
    (offer,) = found.table.offers
    skipped = bring("s17b_first_empty_conversation.jsonl", options=offer.options)
    assert skipped.usable == 19
    same = bring("s17_empty_conversation.jsonl")
    assert "Row 4, column 'messages'" in same.table.chats["messages"]


def test_one_plain_cell_does_not_hide_conversations_and_one_list_does_not_make_them(bring: Bring) -> None:
    chat = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'
    rows = [{"messages": "n/a" if i == 0 else chat, "note": chat if i == 0 else f"plain note {i}"} for i in range(9)]
    found = bring("a.jsonl", "\n".join(map(json.dumps, rows)).encode())
    assert list(found.table.chats) == ["messages"]
    assert "Row 1" in found.table.chats["messages"]


MESSAGES = [{"role": "user", "content": "it's \n [x] {y}, or?"}, {"role": "assistant", "content": 'say "no"'}]


def test_conversations_as_python_text_are_converted(bring: Bring) -> None:
    found = bring("i07_chat_python_repr.csv")
    assert found.suggestion.messages == "messages"
    assert "20 conversations written as Python text" in " ".join(found.table.notices)
    assert [turn.content for turn in found.example().turns] == [
        "Where do I find the red lamp?",
        "Aisle 1, next to the chairs.",
    ]


@pytest.mark.parametrize(
    "write", [str, lambda one: str(np.array(one, object)), lambda one: repr(np.array(one, object))]
)
def test_python_and_numpy_text_of_messages_is_read(write: Callable[[object], str]) -> None:
    assert json.loads(read_python_messages(write(MESSAGES)) or "") == MESSAGES


@pytest.mark.parametrize(
    "cell",
    ['[__import__("os").system("role"), "role"]', "[{'role': open('x')}]", "['role']", "[{'role': {1, 2}}]",
     "[" * 100_000 + "'role'", "[{'role': nan}]", "it says 'role'", "[{'role': 'x'}"],
)  # fmt: skip
def test_other_python_text_stays_text(cell: str) -> None:
    assert read_python_messages(cell) is None


FOUND: dict[str, dict[str, int]] = {
    "i12_r_export_na.csv": {"missing_word": 5},
    "i19_special_tokens.csv": {"end_mark": 20},
    "i19b_endoftext_only.csv": {"end_mark": 20},
    "i19c_im_end_one_row.csv": {"end_mark": 1},
    "i47_sum_row.csv": {},
    "s22_header_repeated.csv": {"header_row": 1},
    "s22b_bom_in_middle.csv": {"header_row": 1},
}
"""File -> findings with their number of rows, apart from duplicates and contradictions."""


@pytest.mark.parametrize("name", FOUND)
def test_rows_that_are_no_data_are_found(bring: Bring, name: str) -> None:
    found = bring(name)
    others = ("duplicate", "contradiction", "near_duplicate", "near_leak", "leak", "constant")
    counts = {kind: finding.count for kind, finding in found.findings().items() if kind not in others}
    assert counts == FOUND[name]
    for kind in counts:
        (fix,) = found.findings()[kind].fixes
        removed = counts[kind] if fix.action == "drop" else 0
        assert fix.count_remaining(found.table.rows) == found.table.rows - removed


def test_an_empty_prompt_is_told_and_contradicts_nothing(bring: Bring) -> None:
    found = bring("s25_empty_prompt.jsonl")
    assert (found.suggestion.prompt, found.usable) == ("", 20)
    assert "without any input" in " ".join(found.suggestion.notes)
    chosen = Brought(found.table, found.suggestion, DataConfig(prompt="{prompt}", prompt_stub="{completion}"))
    assert chosen.findings()["empty_prompt"].count == 20
    assert "contradiction" not in chosen.findings()


@pytest.mark.parametrize(
    ("row", "kind", "action"),
    [
        (("Question", " ANSWER "), "header_row", "drop"),
        (("-----", "+=====+"), "ruler", "drop"),
        (("What is it?", "\\N"), "missing_word", "drop"),
        (("N/A", "That."), "missing_word", "drop"),
        (("What is it?", "That. </s>"), "end_mark", "unmark"),
        (("<start_of_turn>What is it?", "That."), "end_mark", "unmark"),
    ],
)
def test_each_kind_of_stray_row_is_found_once(bring: Bring, row: tuple[str, str], kind: str, action: str) -> None:
    lines = [f"Where in the shop is item {i}?;It stands in aisle {i}." for i in range(30)]
    content = "\n".join(["question;answer", *lines[:9], ";".join(row), *lines[9:]])
    (finding,) = [one for one in bring("a.csv", content.encode()).findings().values() if one.kind == kind]
    assert finding.rows.tolist() == [9]
    assert [fix.action for fix in finding.fixes] == [action]


@pytest.mark.parametrize("answer", ["none", "na", "NA sodium", "use <b>bold</b> </s> here", "a - b", "null and void"])
def test_look_alikes_are_no_stray_rows(bring: Bring, answer: str) -> None:
    lines = [f"Where in the shop is item {i}?;It stands in aisle {i}." for i in range(30)]
    content = "\n".join(["question;answer", *lines, f"What is it called?;{answer}"])
    assert bring("a.csv", content.encode()).findings() == {}


def test_the_labels_of_a_survey_are_found(bring: Bring) -> None:
    rows = [f"Where in the shop is item {i}?,It stands in aisle {i}." for i in range(20)]
    labels = ["Please ask your question,Your answer", '"{""ImportId"":""QID1""}","{""ImportId"":""QID2""}"']
    found = bring("a.csv", "\n".join(["question,answer", *labels, *rows]).encode())
    assert found.findings()["label_row"].rows.tolist() == [0, 1]


def test_end_marks_are_removed_with_the_spaces_before_them() -> None:
    assert remove_end_marks("That. <|endoftext|></s><|im_end|>\n") == "That."
    assert remove_end_marks("if a <b> then </s> x") == "if a <b> then </s> x"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'question\tanswer\nWhat?\t"That\nWhy?\tSo.\n'),
        ("a.csv", 'question,answer\n"What is 5" long?,That\nWhy?,So.\n'),
        ("s21b_csv_quote_swallow.csv", None),
    ],
)
def test_a_loose_quote_is_refused_with_one_click_to_read_it_as_text(
    bring: Bring, name: str, content: str | None
) -> None:
    data = None if content is None else content.encode()
    with pytest.raises(UnreadableError) as caught:
        bring(name, data)
    (offer,) = caught.value.offers
    assert offer.label == "Read quotes as ordinary characters"
    found = bring(name, data, offer.options)
    assert found.table.rows == (2 if content else 5)
    assert any('"' in cell for row in found.table.page(0, 9) for cell in row.values() if cell)


def test_only_a_hint_that_can_be_followed_names_the_reading_options(bring: Bring) -> None:
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    bad = '{"messages": [{"role": "user", "content": "a"}]}'
    for lines, named in ((f"{good}\n{bad}", True), (f"{bad}\n{bad}", False)):
        table = bring("chats.jsonl", lines.encode()).table
        (problem,) = chat_problems(DataConfig(messages="messages"), table)
        assert ("Reading options" in problem.hint) is named
        assert bool(table.offers) is named


def test_a_column_is_found_by_the_name_that_one_sees(bring: Bring) -> None:
    content = 'question\u00a0text,"ans\u00adwer",\u200b\nWhat is it?,That.,1\nWhy so?,So.,2\n'
    table = bring("a.csv", content.encode()).table
    assert table.columns[:2] == ("question\u00a0text", "ans\u00adwer")
    (notice,) = [one for one in table.notices if "invisible" in one]
    assert "'question text' (U+00A0), 'answer' (U+00AD)" in notice
    renderer = make_renderer("{question text}", "{answer}", table.columns)
    assert renderer.example(table.row(0)) == Example("What is it?", "That.")
    with pytest.raises(DataError, match="named 'answers'"):
        make_renderer("{answers}", "", table.columns)
    with pytest.raises(DataError, match="named 'a'"):
        make_renderer("{a}", "", ("a\u200b", "a\u00ad"))
