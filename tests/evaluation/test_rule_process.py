"""Rules that explode when they are compiled or applied: each costs itself, and the others are decided."""

from __future__ import annotations

import json
from typing import Any

import pytest

from toolkit.errors import ToolkitError
from toolkit.evaluation import rule_process
from toolkit.evaluation.rule_process import ENDED, TOO_SLOW, find_rule_violations, parse_checked_rules
from toolkit.evaluation.statistics.pass_rules import parse_pass_rules


def schema(**content: Any) -> dict[str, Any]:
    return {"kind": "json_schema", "json_schema": content}


def doubling(depth: int, leaf: dict[str, Any]) -> dict[str, Any]:
    """A schema whose check takes 2 ** depth steps."""
    steps = {f"s{at}": {"allOf": [{"$ref": f"#/$defs/s{at + 1}"}] * 2} for at in range(depth)}
    return {"$ref": "#/$defs/s0", "$defs": {**steps, f"s{depth}": leaf}}


def nested_repeats(depth: int) -> str:
    pattern = "a"
    for _ in range(depth):
        pattern = f"({pattern}){{100}}"
    return pattern


GOOD = {"kind": "regex", "pattern": r"^\d+$"}
SLOW_TO_APPLY = {
    "chain of $ref": (schema(**doubling(30, {"type": "integer"})), "1"),
    "unique items": (schema(uniqueItems=True), json.dumps([{"a": at} for at in range(20_000)])),
    "recursion": (schema(**{"$ref": "#"}), "1"),
}


@pytest.mark.parametrize("name", SLOW_TO_APPLY)
def test_a_schema_that_never_ends_is_undecided_and_the_other_rules_are_not(name: str) -> None:
    rule, answer = SLOW_TO_APPLY[name]
    rules = parse_pass_rules({"rules": [rule, GOOD]}).rules
    slow, good = find_rule_violations(rules, [answer, "x"])
    assert str(slow[0]).startswith("undecided")
    assert slow[1] and slow[1].startswith("not JSON")
    assert good[1] == "the pattern is not found"


def test_patterns_and_schemas_that_explode_when_compiled_are_refused_in_words() -> None:
    for hostile in ({"kind": "regex", "pattern": nested_repeats(10)}, schema(**doubling(2, {"pattern": "("}))):
        stored = parse_pass_rules({"rules": [hostile, GOOD]}).rules
        found = find_rule_violations(stored, ["1", "x"])
        assert found[1] == [None, "the pattern is not found"]
        assert all(reason is None or reason.startswith("undecided") for reason in found[0])
    with pytest.raises(ToolkitError, match="can't be used: the pattern is not valid"):
        parse_checked_rules({"rules": [GOOD, {"kind": "regex", "pattern": "("}]})


def test_a_process_that_dies_or_stalls_costs_one_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def broken(rules: Any, answers: Any) -> Any:
        calls.append(len(rules))
        yield 0, -1, None
        yield 0, 0, None
        if len(rules) == 2:
            yield 0, 1, None
            # and dies while it compiles the second rule
        # or in the middle of the first

    monkeypatch.setattr(rule_process, "_run_process", broken)
    rules = parse_pass_rules({"rules": [GOOD, {"kind": "contains", "text": "x"}, GOOD, GOOD, GOOD]}).rules
    found = find_rule_violations(rules, ["1", "x"])
    assert calls == [4, 3, 2]
    assert found[0] == found[2] == [None, ENDED]
    assert found[1] == ["the text is missing", None]
    assert found[3] == [None, None]
    assert found[4] == [ENDED, ENDED]


def test_answers_behind_some_slow_ones_are_not_tried() -> None:
    rule, answer = SLOW_TO_APPLY["chain of $ref"]
    (found,) = find_rule_violations(parse_pass_rules({"rules": [rule]}).rules, [answer] * 50)
    assert found == [TOO_SLOW] * 50
