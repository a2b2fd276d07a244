"""What trials are compared by: the objectives with their direction, and the score of each answer to a test row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from toolkit.errors import ConfigError, Problem, ToolkitError
from toolkit.evaluation.predictions import Prediction
from toolkit.evaluation.rule_process import find_rule_violations, parse_checked_rules
from toolkit.evaluation.statistics.measures import MEASURES
from toolkit.evaluation.statistics.pass_rules import PassRule, parse_pass_rules
from toolkit.evaluation.statistics.scoring import detect_answer_kind, score_answer
from toolkit.runs.status import RunStatus
from toolkit.system.foreign_files import parse_foreign_json

LOSS_OBJECTIVE, DEFAULT_OBJECTIVE, FREE_TEXT_OBJECTIVE = "eval_loss", "exact_match", "token_f1"
PERPLEXITY_OBJECTIVE, RATIO_OBJECTIVE, RULES_OBJECTIVE = "perplexity", "length_ratio", "pass_rules"
SMALLEST_DIFFERENCE = 0.10
"""Difference that counts as none: 10 points of a share, 10 % of the mean of a figure."""
_MAX_EXPONENT = 700.0
"""The exponential of more is too large for a float."""


@dataclass(frozen=True)
class Objective:
    """What trials are compared by. title: in running text. lower: a smaller value is better.

    is_share: 0 to 1, shown in percent and points; else a figure, with the unit of a difference. by_row: each test row
    has a score; else a run as a whole has a value. equal: difference that counts as none even if the mean is smaller.
    """

    title: str
    lower: bool = False
    is_share: bool = True
    by_row: bool = True
    unit: str = " points"
    equal: float = 0.0

    @property
    def direction(self) -> str:
        """Which direction is better: "lower" or "higher"."""
        return "lower" if self.lower else "higher"

    def find_limit(self, mean: float) -> float:
        """Return the half width above which an interval does not show that there is no difference. mean: of values."""
        return SMALLEST_DIFFERENCE if self.is_share else max(self.equal, SMALLEST_DIFFERENCE * mean, 1e-12)


OBJECTIVES: Mapping[str, Objective] = {
    **{one.name: Objective(one.title.lower()) for one in MEASURES if one.form == "share"},
    RULES_OBJECTIVE: Objective("pass rate"),
    "length_difference": Objective("length difference", True, False, unit=" characters", equal=1.0),
    RATIO_OBJECTIVE: Objective("distance of the length ratio from 1", True, False, unit="", equal=0.1),
    LOSS_OBJECTIVE: Objective("test loss", True, False, by_row=False, unit=""),
    PERPLEXITY_OBJECTIVE: Objective("perplexity", True, False, by_row=False, unit=""),
}
"""By name, as in the setting `ablation.objective`."""


def read_run_value(status: RunStatus, objective: str) -> float | None:
    """Return the objective of a run as a whole, without its answers; None when it was not recorded."""
    if OBJECTIVES[objective].by_row:
        score = status.scores.get(objective)
        return None if score is None else float(score)
    loss = status.last.get("eval_loss")
    if loss is None or objective == LOSS_OBJECTIVE:
        return None if loss is None else float(loss)
    return math.exp(min(float(loss), _MAX_EXPONENT))


def score_rows(answers: Sequence[Prediction], objective: str, rules: str) -> dict[tuple[int, str], float]:
    """Return the objective by (row, expected answer); a row to which it does not apply is left out.

    rules: a JSON text, as in the setting `ablation.pass_rules`. An answer passes when it passes all of them. Raises
    ToolkitError for rules that can't be read.
    """
    if objective == RULES_OBJECTIVE:
        found = find_rule_violations(_parse_rules(rules), [one.adapter for one in answers])
        reasons = zip(*found, strict=True) if found else ()
        return {(one.row, one.expected): float(not any(row)) for one, row in zip(answers, reasons, strict=bool(found))}
    kind = detect_answer_kind([one.expected for one in answers])
    scores = {}
    for one in answers:
        score = score_answer(one.adapter, one.expected, kind).get(objective)
        if score is not None and not math.isnan(score):
            scores[one.row, one.expected] = abs(score - 1) if objective == RATIO_OBJECTIVE else score
    return scores


def _parse_rules(text: str) -> tuple[PassRule, ...]:
    return parse_pass_rules(_read_rules(text)).rules


def _read_rules(text: str) -> object:
    """Return the plain data of rules: a list of them, or an object like the file of an evaluation."""
    try:
        value = parse_foreign_json(text)
    except ValueError as error:
        raise ToolkitError(f"The rules are not JSON: {error}.", _RULES_HINT) from error
    return {"rules": value} if isinstance(value, list) else value


_RULES_HINT = 'Write a list, for example [{"kind": "contains", "text": "Regards"}].'


def check_objective(objective: str | None, rules: str | None) -> None:
    """Raise ConfigError when the objective is the pass rules, and there are none or they can't be used."""
    found = _find_rules_problem(rules or "") if objective == RULES_OBJECTIVE else None
    if found is not None:
        raise ConfigError([found])


@lru_cache(maxsize=20)  # a process compiles the rules, and the form asks at every rerun
def _find_rules_problem(rules: str) -> Problem | None:
    path = "ablation.pass_rules"
    if not rules.strip():
        return Problem(path, "The objective is Pass rules, but there is no rule.", _RULES_HINT)
    try:
        if not parse_checked_rules(_read_rules(rules)).rules:
            return Problem(path, "The list of pass rules is empty.", _RULES_HINT)
    except ToolkitError as error:
        return Problem(path, error.message, error.hint)
    return None
