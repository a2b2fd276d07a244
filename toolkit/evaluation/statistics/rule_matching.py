"""Apply pass rules to answers: apart from `pass_rules.py`, as the JSON schema library takes a while to import."""

from __future__ import annotations

from typing import Any

import regex
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from toolkit.evaluation.statistics.pass_rules import ContainsRule, JsonSchemaRule, PassRule, RegexRule
from toolkit.evaluation.statistics.text import InvalidJsonError, parse_answer_json, split_words

REGEX_SECONDS = 0.1  # for one pattern on one answer; some patterns take exponential time


def compile_rule(rule: PassRule) -> str | None:
    """Return why the rule's pattern or schema can't be used, None if it can. It may take any time."""
    try:
        if isinstance(rule, RegexRule):
            regex.compile(rule.pattern)
        if isinstance(rule, JsonSchemaRule):
            Draft202012Validator.check_schema(rule.json_schema)
            if _uses(rule.json_schema, "patternProperties"):
                return "patternProperties is not supported: its patterns can't be given a time limit"
    except regex.error as error:
        return f"the pattern is not valid: {error}"
    except SchemaError as error:
        return f"the JSON schema is not valid: {error.message[:300]}"
    except RecursionError:
        return "it is nested too deeply"
    return None


def find_rule_violation(rule: PassRule, answer: str) -> str | None:
    """Return why `answer` fails the rule, None when it passes."""
    reason = _find_mismatch(rule, answer)
    if reason is not None and reason.startswith("undecided"):
        return reason  # fails the rule and its negation alike
    if rule.negate:
        return "it matches, but must not" if reason is None else None
    return reason


def _find_mismatch(rule: PassRule, answer: str) -> str | None:
    if isinstance(rule, ContainsRule):
        found = rule.text.casefold() in answer.casefold() if rule.ignore_case else rule.text in answer
        return None if found else "the text is missing"
    if isinstance(rule, RegexRule):
        try:
            return None if _search(rule.pattern, answer) else "the pattern is not found"
        except TimeoutError:
            return f"undecided: the pattern took longer than {REGEX_SECONDS} s"
    if isinstance(rule, JsonSchemaRule):
        return _find_schema_mismatch(rule, answer)
    size = len(answer) if rule.unit == "characters" else len(split_words(answer))
    low, high = rule.least or 0, rule.most if rule.most is not None else size
    return None if low <= size <= high else f"{size} {rule.unit}"


def _find_schema_mismatch(rule: JsonSchemaRule, answer: str) -> str | None:
    try:
        value = parse_answer_json(answer)
        _VALIDATOR(rule.json_schema, registry=Registry()).validate(value)  # an empty registry fetches nothing
    except InvalidJsonError as error:
        return f"not JSON: {error}"
    except ValidationError as error:
        return f"{error.json_path}: {error.message}"[:300]
    except TimeoutError:
        return f"undecided: a pattern of the schema took longer than {REGEX_SECONDS} s"
    except (Unresolvable, regex.error, RecursionError) as error:
        return f"undecided: the schema can't be applied ({type(error).__name__})"
    return None


def _uses(schema: Any, keyword: str) -> bool:
    if isinstance(schema, dict):
        return keyword in schema or any(_uses(inner, keyword) for inner in schema.values())
    return isinstance(schema, list) and any(_uses(inner, keyword) for inner in schema)


def _search(pattern: str, text: str) -> bool:
    return regex.compile(pattern).search(text, timeout=REGEX_SECONDS) is not None


def _bounded_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Any:
    del validator, schema
    if isinstance(instance, str) and not _search(pattern, instance):
        yield ValidationError(f"{instance[:60]!r} does not match {pattern!r}")


_VALIDATOR = validators.extend(Draft202012Validator, {"pattern": _bounded_pattern})
