"""The findings of the data checks on data with known faults."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from toolkit.config import Config
from toolkit.data.doctor.checks import list_findings
from toolkit.data.doctor.row_keys import row_keys
from toolkit.data.examples.split import plan_split
from toolkit.data.findings import Finding
from toolkit.data.label_spellings import find_spellings
from toolkit.data.storage.versions import DatasetReference, apply_fix, open_version
from toolkit.data.table import Table
from toolkit.errors import DataError


def make_config(prompt: str = "{q}", stub: str = "{a}") -> Config:
    return Config.model_validate({"data": {"prompt": prompt, "prompt_stub": stub}})


def _by_kind(found: list[Finding]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in found}


def test_clean_data_has_no_findings(open_bytes: Callable[..., Table]) -> None:
    table = open_bytes("q,a\n" + "".join(f"what is {i}?,it is {i}!\n" for i in range(50)))
    assert list_findings(table, make_config()) == []


def test_every_kind_is_found_with_its_rows(open_bytes: Callable[..., Table]) -> None:
    rows = [f'{{"q": "q{i}", "a": "a{i}"}}' for i in range(40)]
    rows[3] = '{"q": "q3"}'
    rows[5] = '{"q": null, "a": "x"}'
    rows[7] = '{"q": "q7", "a": " \\n"}'
    rows[9] = '{"q": "q8", "a": "a8"}'
    rows[11] = '{"q": "q10", "a": "another"}'
    found = _by_kind(list_findings(open_bytes("\n".join(rows), "json"), make_config()))
    assert found["missing"].rows.tolist() == [3, 5]
    assert "'q' in 1, 'a' in 1" in found["missing"].message
    assert found["empty_answer"].rows.tolist() == [7]
    assert found["duplicate"].rows.tolist() == [9]
    assert found["contradiction"].rows.tolist() == [10, 11]
    assert found["contradiction"].fixes[0].rows.tolist() == [11], "of two even answers the first stays"
    assert all(finding.why and finding.fixes for finding in found.values())


def test_test_rows_that_are_training_rows(open_bytes: Callable[..., Table]) -> None:
    table = open_bytes("q,a,id\n" + "".join(f"q{i % 10},a{i % 10},{i}\n" for i in range(200)))
    found = _by_kind(list_findings(table, make_config()))
    test = plan_split(table, make_config().data).test
    assert found["leak"].count == len(test)
    assert found["leak"].rows.tolist() == sorted(test.tolist())
    assert found["duplicate"].count == 190
    assert found["leak"].fixes[0].rows.tolist() == found["duplicate"].rows.tolist()
    assert "leak" not in _by_kind(list_findings(table, make_config("{q} {id}")))


def test_a_constant_column_can_be_removed(open_bytes: Callable[..., Table]) -> None:
    table = open_bytes("q,shop,a\n" + "".join(f"q{i},here,a{i}\n" for i in range(40)))
    finding = _by_kind(list_findings(table, make_config("{q} {shop}")))["constant"]
    (fix,) = finding.fixes
    assert (fix.label, fix.settings) == (
        "Remove {shop} from the prompt", {"path": "data.prompt", "old": "{shop}", "new": ""}
    )  # fmt: skip


def test_an_answer_with_words_around_its_cell_is_not_empty(open_bytes: Callable[..., Table]) -> None:
    table = open_bytes('[{"q": "1", "a": ""}, {"q": "2", "a": "x"}, {"q": "3", "a": "y"}]', "json")
    assert "empty_answer" in _by_kind(list_findings(table, make_config()))
    assert "empty_answer" not in _by_kind(list_findings(table, make_config(stub="Answer: {a}")))


def test_keys_are_equal_exactly_when_cells_are(open_bytes: Callable[..., Table]) -> None:
    cells = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "b"), ("b", "a"), ("", "ab")]
    table = open_bytes("x,y,i\n" + "".join(f"{x},{y},1\n" for x, y in cells))
    keys = row_keys(table, ["x", "y"]).tolist()
    assert [[keys[i] == keys[j] for j in range(6)] for i in range(6)] == [[p == q for q in cells] for p in cells]
    assert set(row_keys(table, []).tolist()) == {0}


def test_settings_that_can_not_be_used_raise(open_bytes: Callable[..., Table]) -> None:
    table = open_bytes("q,a\n1,2\n3,4\n5,6\n")
    with pytest.raises(DataError, match="No column"):
        list_findings(table, make_config("{nope}"))


def _labelled(open_bytes: Callable[..., Table], shares: dict[str, int]) -> Table:
    labels = [label for label, rows in shares.items() for _ in range(rows)]
    np.random.default_rng(1).shuffle(labels)
    lines = [json.dumps({"q": f"text number {at} of many", "a": label}) for at, label in enumerate(labels)]
    return open_bytes("\n".join(lines), "json")


VARIANTS = [
    ("refund", "refund "), ("refund", "Refund"), ("caf\u00e9", "cafe\u0301"), ("refund", "\uff52\uff45\uff46und"),
    ("refund", "re\u200bfund"), ("refund", "refnud"), ("refund", "refunds"), ("not spam", "not_spam"),
    ("not spam", "not  spam"), ("it's fine", "it\u2019s fine"), ("refund", "refund."), ("stra\u00dfe", "STRASSE"),
]  # fmt: skip


@pytest.mark.parametrize(("label", "variant"), VARIANTS)
def test_a_label_in_two_spellings_is_found_and_merged(
    open_bytes: Callable[..., Table], tmp_path: Path, label: str, variant: str
) -> None:
    table = _labelled(open_bytes, {label: 60, "repair": 50, variant: 3})
    found = _by_kind(list_findings(table, make_config()))
    assert "imbalance" not in found, "a variant is no rare label"
    finding = found["label_variants"]
    assert finding.count == 3
    (fix,) = finding.fixes
    assert (fix.label, fix.settings) == ("Merge 1 spelling", {"spellings": {variant: label}})
    made = open_version(Path(apply_fix(fix, table, DatasetReference("json", str(table.path)), tmp_path).path))
    assert made is not None
    assert sorted(made.column("a").to_pylist()) == sorted([label] * 63 + ["repair"] * 50)
    assert made.column("q").to_pylist() == table.column("q").to_pylist()
    assert made.version is not None
    assert made.version.steps == ("1 spelling of labels merged in 3 rows",)
    assert _by_kind(list_findings(made, make_config())) == {}


def test_several_spellings_are_merged_into_the_most_frequent_one(open_bytes: Callable[..., Table]) -> None:
    table = _labelled(open_bytes, {"yes": 4, "Yes": 40, "YES ": 2, "no": 30, "No": 1})
    (fix,) = _by_kind(list_findings(table, make_config()))["label_variants"].fixes
    assert fix.label == "Merge 3 spellings"
    assert fix.settings["spellings"] == {"yes": "Yes", "YES ": "Yes", "No": "no"}


def test_balancing_counts_labels_after_their_spellings_are_merged(open_bytes: Callable[..., Table]) -> None:
    # 400 rows of five labels, one of which has a trailing space once
    table = _labelled(open_bytes, {"a1": 80, "b2": 80, "c3": 80, "d4": 80, "e5": 79, "e5 ": 1})
    assert set(_by_kind(list_findings(table, make_config()))) == {"label_variants"}
    uneven = _labelled(open_bytes, {"refund": 300, "Refund": 4, "repair": 20, "repair ": 1})
    finding = _by_kind(list_findings(uneven, make_config()))["imbalance"]
    assert "'refund' has 304 rows and 'repair' has 21 rows" in finding.message
    assert finding.fixes[0].label == "Keep at most 63 rows per label, remove 241"


@pytest.mark.parametrize(
    "labels",
    [("typical", "atypical"), ("plan 1", "plan 2"), ("C", "C++"), ("-1", "1"), ("cat", "car"), ("Iran", "Iraq"),
     ("hypertension", "hypotension"), ("increase", "decrease"), ("A+", "A-"), ("grade 10", "grade 1")],
)  # fmt: skip
def test_labels_that_look_alike_are_not_merged(labels: tuple[str, str]) -> None:
    first, second = labels
    assert find_spellings({first: 500, second: 5}) == {}
    assert find_spellings({first: 50, second: 40}) == {}


def test_a_frequent_label_one_letter_away_is_another_label() -> None:
    assert find_spellings({"marital": 50, "martial": 40}) == {}
    assert find_spellings({"marital": 50, "martial": 2}) == {"martial": "marital"}


def test_free_text_is_not_compared_for_spelling(open_bytes: Callable[..., Table]) -> None:
    rows = [{"q": f"question {i}", "a": f"{'An' if i % 2 else 'an'} answer about topic {i // 2}"} for i in range(80)]
    table = open_bytes("\n".join(map(json.dumps, rows)), "json")
    assert "label_variants" not in _by_kind(list_findings(table, make_config()))
