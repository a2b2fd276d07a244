"""Pass/fail rules: what passes and fails, and that a hostile rule has a time limit and fetches nothing."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from toolkit.errors import ToolkitError
from toolkit.evaluation.rule_process import parse_checked_rules
from toolkit.evaluation.statistics.pass_rules import parse_pass_rules, rule_title
from toolkit.evaluation.statistics.rule_matching import find_rule_violation

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


@pytest.mark.parametrize(
    ("rule", "keeps", "breaks"),
    [
        ({"kind": "contains", "text": "Yes"}, "Yes!", "yes!"),
        ({"kind": "contains", "text": "yes", "ignore_case": True}, "YES!", "no"),
        ({"kind": "contains", "text": "sorry", "negate": True}, "no", "so sorry"),
        ({"kind": "regex", "pattern": r"^\d{4}$"}, "2026", "26"),
        ({"kind": "json_schema", "json_schema": SCHEMA}, '{"n": 3}', '{"n": 0}'),
        ({"kind": "json_schema", "json_schema": SCHEMA}, '{"n": 3}', "three"),
        ({"kind": "length", "most": 4}, "four", "fives"),
        ({"kind": "length", "unit": "words", "least": 2}, "two words", "one"),
    ],
)
def test_each_kind_of_rule_passes_and_fails(rule: dict[str, Any], keeps: str, breaks: str) -> None:
    (one,) = parse_pass_rules({"rules": [rule]}).rules
    assert find_rule_violation(one, keeps) is None
    assert find_rule_violation(one, breaks)
    assert rule_title(one).startswith("must")


@pytest.mark.parametrize("negate", [False, True])
def test_a_catastrophic_pattern_times_out_and_is_undecided(negate: bool) -> None:
    evil = "^(a|aa|aaa|b?)+$"
    schema = {"type": "string", "pattern": evil}
    pattern = {"kind": "regex", "pattern": evil, "negate": negate}
    rules = parse_pass_rules({"rules": [pattern, {"kind": "json_schema", "json_schema": schema}]}).rules
    text = "a" * 60 + "!"
    found = [find_rule_violation(rule, text) for rule in rules]
    assert found[0] and found[0].startswith("undecided")
    quoted = find_rule_violation(rules[1], f'"{text}"')
    assert quoted and quoted.startswith("undecided")


def test_a_schema_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (rule,) = parse_pass_rules(
        {"rules": [{"kind": "json_schema", "json_schema": {"$ref": "http://example.com/s.json"}}]}
    ).rules
    assert "can't be applied" in str(find_rule_violation(rule, "{}"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"rules": [{"kind": "regex", "pattern": "("}]}, "pattern is not valid"),
        ({"rules": [{"kind": "json_schema", "json_schema": {"type": "thing"}}]}, "JSON schema is not valid"),
        ({"rules": [{"kind": "json_schema", "json_schema": {"patternProperties": {"a": {}}}}]}, "not supported"),
        ({"rules": [{"kind": "length"}]}, "minimum or a maximum"),
        ({"rules": [{"kind": "length", "least": 5, "most": 4}]}, "above the maximum"),
        ({"rules": [{"kind": "shell", "command": "rm"}]}, "shell"),
        ({"gate": {"improves": "charm"}}, "charm"),
        ([], "dictionary"),
    ],
)
def test_a_wrong_rule_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(ToolkitError, match=r"(?s)" + words):
        parse_checked_rules(wrong)


def test_rules_survive_a_round_trip_through_json() -> None:
    rules = parse_pass_rules(
        {"rules": [{"kind": "contains", "text": "x", "name": "an x"}], "gate": {"improves": "chrf"}}
    )
    import json

    assert parse_pass_rules(json.loads(rules.model_dump_json())) == rules
