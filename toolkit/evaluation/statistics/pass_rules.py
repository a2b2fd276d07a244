"""Pass/fail rules that an answer must keep, as data: contains, regex, JSON schema, length. And the gate over them.

A rule may come from a file of a stranger: patterns have a time bound, schemas never fetch anything, and a rule that
can't be used is said so in the user's words. Knows no model and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import regex
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic import ValidationError as WrongShape
from referencing import Registry
from referencing.exceptions import Unresolvable

from toolkit.errors import ToolkitError
from toolkit.evaluation.statistics.measures import EXACT_MATCH_MEASURE, GATE_MEASURES
from toolkit.evaluation.statistics.text import InvalidJsonError, parse_answer_json, split_words

REGEX_SECONDS = 0.1
MAX_RULES = 50
ShortText = Annotated[str, Field(max_length=1_000)]


class _Rule(BaseModel):
    """name: for people; "" means one made from the rule. negate: the answer must *not* do it.

    at_least: the share of the adapter's answers that must keep the rule; 1.0 is all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=100)] = ""
    negate: bool = False
    at_least: Annotated[float, Field(ge=0, le=1)] = 1.0


class ContainsRule(_Rule):
    kind: Literal["contains"] = "contains"
    text: Annotated[ShortText, Field(min_length=1)]
    ignore_case: bool = False


class RegexRule(_Rule):
    kind: Literal["regex"] = "regex"
    pattern: Annotated[ShortText, Field(min_length=1)]

    @model_validator(mode="after")
    def _compiles(self) -> RegexRule:
        try:
            regex.compile(self.pattern)
        except regex.error as error:
            raise ValueError(f"the pattern can't be used: {error}") from error
        return self


class JsonSchemaRule(_Rule):
    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any]

    @model_validator(mode="after")
    def _is_schema(self) -> JsonSchemaRule:
        try:
            Draft202012Validator.check_schema(self.json_schema)
        except (SchemaError, RecursionError) as error:
            reason = error.message if isinstance(error, SchemaError) else "it is nested too deeply"
            raise ValueError(f"this is no JSON schema: {reason}") from error
        if _uses(self.json_schema, "patternProperties"):
            raise ValueError("patternProperties is not supported: such patterns can't be given a time bound")
        return self


class LengthRule(_Rule):
    kind: Literal["length"] = "length"
    unit: Literal["characters", "words"] = "characters"
    least: Annotated[int, Field(ge=0)] | None = None
    most: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _bounds(self) -> LengthRule:
        if self.least is None and self.most is None:
            raise ValueError("give a least or a most length")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"the least length {self.least} is above the most, {self.most}")
        return self


PassRule = Annotated[ContainsRule | RegexRule | JsonSchemaRule | LengthRule, Field(discriminator="kind")]


class Gate(BaseModel):
    """When a run may be promoted: the measure must be better by more than noise, and every rule must be kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    improves: str | None = EXACT_MATCH_MEASURE
    rules: bool = True

    @model_validator(mode="after")
    def _known(self) -> Gate:
        if self.improves is not None and self.improves not in GATE_MEASURES:
            raise ValueError(f"improves '{self.improves[:60]}' is none of: {', '.join(GATE_MEASURES)}")
        return self


class RuleSet(BaseModel):
    """What rules.json and a --rules file hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Annotated[tuple[PassRule, ...], Field(max_length=MAX_RULES)] = ()
    gate: Gate | None = None


_READER = TypeAdapter(RuleSet)


def parse_pass_rules(value: Any) -> RuleSet:
    """A set of rules from plain data. Raises ToolkitError that names every wrong part."""
    try:
        return _READER.validate_python(value)
    except WrongShape as error:
        parts = [f"{'.'.join(map(str, one['loc'])) or 'the rules'}: {one['msg']}" for one in error.errors()[:5]]
        message = "The rules can't be used: " + "; ".join(parts) + "."
        raise ToolkitError(message, "A rule has a kind: contains, regex, json_schema or length.") from error


def rule_title(rule: PassRule) -> str:
    """A rule in words, for people."""
    if rule.name:
        return rule.name
    verb = "must not" if rule.negate else "must"
    if isinstance(rule, ContainsRule):
        return f"{verb} contain “{rule.text}”"
    if isinstance(rule, RegexRule):
        return f"{verb} match {rule.pattern}"
    if isinstance(rule, JsonSchemaRule):
        return f"{verb} fit the JSON schema {rule.json_schema.get('title', '')}".rstrip()
    bounds = [f"at least {rule.least}"] * (rule.least is not None) + [f"at most {rule.most}"] * (rule.most is not None)
    return f"{verb} have {' and '.join(bounds)} {rule.unit}"


def unique_rule_titles(rules: Sequence[PassRule]) -> list[str]:
    """The title of each rule, no two alike: those that say the same are numbered."""
    found: list[str] = []
    for own in map(rule_title, rules):
        number = sum(other == own or other.startswith(f"{own} (") for other in found) + 1
        found.append(own if number == 1 else f"{own} ({number})")
    return found


def find_rule_violation(rule: PassRule, answer: str) -> str | None:
    """Why `answer` breaks the rule, or None when it keeps it."""
    reason = _find_mismatch(rule, answer)
    if reason is not None and reason.startswith("undecided"):
        return reason  # neither kept nor its opposite
    if rule.negate:
        return "it does what it must not" if reason is None else None
    return reason


def _find_mismatch(rule: PassRule, answer: str) -> str | None:
    if isinstance(rule, ContainsRule):
        there = rule.text.casefold() in answer.casefold() if rule.ignore_case else rule.text in answer
        return None if there else "the text is missing"
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
        return f"no JSON: {error}"
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
