"""Text files without cells: chats, questions, labels and cards are read; others are named in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.data.conftest import Opener
from tests.data.shapes.test_other_conversations import said, turns_of
from toolkit.data.examples.column_suggestion import suggest_for_table
from toolkit.data.read_options import ReadOptions
from toolkit.data.readers.formats import kind_of_content
from toolkit.errors import DataError

ASKED = [f"Where is lamp {at}?" for at in range(8)]
TOLD = [f"In aisle {at}.\nOn the left: there." for at in range(8)]


def android(at: int) -> str:
    note = "1/2/24, 09:59 - Messages are end-to-end encrypted. No one can read them.\n" if at == 0 else ""
    return f"{note}1/2/24, 10:0{at} - Ann: {ASKED[at]}\n1/2/24, 10:1{at} - Bob Shop: {TOLD[at]}\n"


def iphone(at: int) -> str:
    left = "\u200e[02.01.24, 10:10:10] Bob Shop: \u200eimage omitted\r\n"
    return f"[02.01.24, 10:0{at}:05] Ann: {ASKED[at]}\r\n[02.01.24, 10:1{at}:05] Bob Shop: {TOLD[at]}\r\n{left}"


def english(at: int) -> str:
    return f"12/31/23, 9:0{at}\u202fPM - Ann: {ASKED[at]}\n12/31/23, 9:1{at}\u202fPM - Bob Shop: {TOLD[at]}\n"


def irc(at: int) -> str:
    joined = "[10:00] *** Bob Shop has joined #lamps\n" if at == 3 else ""
    return f"[10:0{at}] <@Ann> {ASKED[at]}\n{joined}[10:1{at}] <Bob Shop> {TOLD[at]}\n"


def irc_with_seconds(at: int) -> str:
    return f"10:0{at}:07 < Ann> {ASKED[at]}\n10:1{at}:09 <+Bob Shop> {TOLD[at]}\n"


@pytest.mark.parametrize("write", [android, iphone, english, irc, irc_with_seconds])
def test_an_exported_chat_is_rows_of_messages(open_bytes: Opener, write: Callable[[int], str]) -> None:
    content = "".join(map(write, range(8)))
    assert kind_of_content(content.encode(), "csv") == kind_of_content(content.encode(), "json") == "csv"
    table = open_bytes(content)
    assert (table.columns, table.rows) == (("date", "from", "message"), 16)
    assert table.row(1)["message"] == TOLD[0]
    assert suggest_for_table(table).kind == "ask"
    offer = next(offer for offer in table.offers if offer.options.answered_by == "Bob Shop")
    joined = open_bytes(content, options=offer.options)
    assert suggest_for_table(joined).kind == "conversations"
    assert said(turns_of(joined)) == [("user", ASKED[0], False), ("assistant", TOLD[0], True)]


@pytest.mark.parametrize(("ask", "tell"), [("Q:", "A:"), ("Frage 1:", "Antwort 1:"), ("**Question:**", "**Answer:**")])
def test_marked_questions_are_rows(open_bytes: Opener, ask: str, tell: str) -> None:
    content = "\n\n".join(f"{ask} {ASKED[at]}\n{tell} {TOLD[at]}" for at in range(8))
    table = open_bytes(content)
    assert table.rows == 8
    assert table.row(7) == {"question": ASKED[7], "answer": TOLD[7]}
    assert suggest_for_table(table).completion == "{answer}"


def test_labels_of_fasttext_are_a_column(open_bytes: Opener) -> None:
    table = open_bytes("".join(f"__label__{'ab'[at % 2]} __label__x {text}\n" for at, text in enumerate(ASKED)))
    assert table.row(1) == {"text": ASKED[1], "label": "b, x"}
    suggestion = suggest_for_table(table)
    assert (suggestion.prompt, suggestion.completion) == ("{text}", "{label}")


def test_cards_of_anki_and_tables_of_r_are_read(open_bytes: Opener) -> None:
    cards = "#separator:tab\n#html:true\n" + "".join(f"{text}\tIn {at}.\n" for at, text in enumerate(ASKED))
    table = open_bytes(cards)
    assert (table.rows, table.row(0)) == (8, {"front": ASKED[0], "back": "In 0."})
    assert suggest_for_table(table).prompt == "{front}"
    written = '"question" "answer"\n' + "".join(f'"{at + 1}" "{text}" "In {at}."\n' for at, text in enumerate(ASKED))
    table = open_bytes(written)
    assert (table.rows, table.row(7)) == (8, {"question": ASKED[7], "answer": "In 7."})


TOKENS = "EU NNP B-ORG\nrejects VBZ O\nGerman JJ B-MISC\ncall NN O\n\n"
TREE = "# text = They buy.\n1\tThey\tthey\tPRON\tPRP\t_\t2\tnsubj\t_\t_\n2\tbuy\tbuy\tVERB\tVBP\t_\t0\troot\t_\t_\n\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TOKENS * 3, "one word per line with its tag"),
        ("-DOCSTART- -X- O\n\n" + TOKENS, "one word per line with its tag"),
        (TREE * 3, "one word per line with its tag"),
        ("Anna\tB-PER\nlives\tO\nin\tO\nRome\tB-LOC\n.\tO\n\n" * 3, "one word per line with its tag"),
        ("1\n00:00:01,000 --> 00:00:02,000\nHello there\n\n" * 4, "subtitles"),
        ("-- MySQL dump 10\nCREATE TABLE t (a int);\nINSERT INTO t VALUES (1),(2);\n", "SQL"),
        ("- question: a\n  answer: b\n- question: c\n  answer: d\n", "YAML"),
        ("# Help\n\nSome words.\n\n## Where?\n\nThere.\n", "Markdown"),
        ("     question   answer\n0  Where is it?   There.\n1  And now?   Here.\n2  Why?  So.\n3  How?  \n", "pandas"),
    ],
)
@pytest.mark.parametrize("named", ["csv", "json"])
def test_a_text_without_examples_is_named(open_bytes: Opener, content: str, words: str, named: str) -> None:
    assert kind_of_content(content.encode(), named) == "csv"
    with pytest.raises(DataError) as caught:
        open_bytes(content)
    assert words in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        "text,label\n" + "Where is it?,O\nHere,B-LOC\n" * 4,
        "question,answer\nQ: What?,A: That.\nQ: Why?,A: So.\nQ: How?,A: Thus.\n",
        "date,note\n" + '"1/2/24, 10:00 - Ann: Hello",x\n' * 4,
    ],
)
def test_a_table_with_such_cells_stays_a_table(open_bytes: Opener, content: str) -> None:
    assert open_bytes(content).rows == content.count("\n") - 1


def test_a_chosen_delimiter_reads_the_lines_as_they_are(open_bytes: Opener) -> None:
    assert open_bytes("a\nQ: 1\nA: 2\nQ: 3\nA: 4\nQ: 5\nA: 6\n", options=ReadOptions(delimiter=",")).rows == 6
