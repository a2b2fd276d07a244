"""Pass/fail rules for answers, as data: contains, regex, JSON schema, length; and the gate that combines them.

Rules may come from a file of unknown origin: schemas never fetch anything, and a rule that can't be used is explained.
`evaluation/rule_process.py` compiles and applies patterns and schemas, in a process with limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic import ValidationError as WrongShape

from toolkit.errors import ToolkitError
from toolkit.evaluation.statistics.measures import EXACT_MATCH_MEASURE, GATE_MEASURES

MAX_RULES = 50
ShortText = Annotated[str, Field(max_length=1_000)]


class _Rule(BaseModel):
    """What all rules share.

    name: a title; "" means one made from the rule. negate: the answer must *not* match. at_least: the share of the
    adapter's answers that must pass, 0 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(max_length=100)] = ""
    negate: bool = False
    at_least: Annotated[float, Field(ge=0, le=1)] = 1.0


class ContainsRule(_Rule):
    """The answer contains a text."""

    kind: Literal["contains"] = "contains"
    text: Annotated[ShortText, Field(min_length=1)]
    ignore_case: bool = False


class RegexRule(_Rule):
    """The answer contains a match of a regular expression."""

    kind: Literal["regex"] = "regex"
    pattern: Annotated[ShortText, Field(min_length=1)]


class JsonSchemaRule(_Rule):
    """The answer is JSON that is valid under a schema (draft 2020-12)."""

    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any]


class LengthRule(_Rule):
    """The length of the answer lies between two bounds, either of which may be open."""

    kind: Literal["length"] = "length"
    unit: Literal["characters", "words"] = "characters"
    least: Annotated[int, Field(ge=0)] | None = None
    most: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _bounds(self) -> LengthRule:
        if self.least is None and self.most is None:
            raise ValueError("give a minimum or a maximum length")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"the minimum length {self.least} is above the maximum {self.most}")
        return self


PassRule = Annotated[ContainsRule | RegexRule | JsonSchemaRule | LengthRule, Field(discriminator="kind")]


class Gate(BaseModel):
    """When a run may be promoted.

    improves: the measure that must be better by more than noise, None for none. rules: whether all rules must pass.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    improves: str | None = EXACT_MATCH_MEASURE
    rules: bool = True

    @model_validator(mode="after")
    def _known(self) -> Gate:
        if self.improves is not None and self.improves not in GATE_MEASURES:
            raise ValueError(f"improves: '{self.improves[:60]}' is not one of:  {', '.join(GATE_MEASURES)}")
        return self


class RuleSet(BaseModel):
    """The content of rules.json and of a --rules file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Annotated[tuple[PassRule, ...], Field(max_length=MAX_RULES)] = ()
    gate: Gate | None = None


_RULE_SET_ADAPTER = TypeAdapter(RuleSet)


def parse_pass_rules(value: Any) -> RuleSet:
    """Return the rules in plain data. Raises ToolkitError, which names up to five mistakes."""
    try:
        return _RULE_SET_ADAPTER.validate_python(value)
    except WrongShape as error:
        parts = [f"{'.'.join(map(str, part['loc'])) or 'the rules'}: {part['msg']}" for part in error.errors()[:5]]
        message = "The rules can't be used: " + "; ".join(parts) + "."
        raise ToolkitError(message, "Every rule needs a kind: contains, regex, json_schema or length.") from error


def rule_title(rule: PassRule) -> str:
    """Return the rule's name, or a description of it."""
    if rule.name:
        return rule.name
    verb = "must not" if rule.negate else "must"
    if isinstance(rule, ContainsRule):
        return f"{verb} contain “{rule.text}”"
    if isinstance(rule, RegexRule):
        return f"{verb} match {rule.pattern}"
    if isinstance(rule, JsonSchemaRule):
        return f"{verb} match the JSON schema {rule.json_schema.get('title', '')}".rstrip()
    bounds = [f"at least {rule.least}"] * (rule.least is not None) + [f"at most {rule.most}"] * (rule.most is not None)
    return f"{verb} have {' and '.join(bounds)} {rule.unit}"


def unique_rule_titles(rules: Sequence[PassRule]) -> list[str]:
    """Return the title of each rule; equal titles are numbered."""
    titles: list[str] = []
    for title in map(rule_title, rules):
        number = sum(other == title or other.startswith(f"{title} (") for other in titles) + 1
        titles.append(title if number == 1 else f"{title} ({number})")
    return titles
