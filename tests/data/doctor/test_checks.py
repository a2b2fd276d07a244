"""The findings of the data checks on data with known faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from toolkit.config import Config
from toolkit.data.doctor.checks import list_findings
from toolkit.data.doctor.row_keys import row_keys
from toolkit.data.examples.split import plan_split
from toolkit.data.findings import Finding
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
