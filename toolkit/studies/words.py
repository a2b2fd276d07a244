"""The verdict of a study as one paragraph, and its trials as rows of a table."""

from __future__ import annotations

import csv
import io
from typing import Any

from toolkit.evaluation.download import escape_formula
from toolkit.evaluation.statistics.paired_trials import MAX_SEEDS_ADVISED
from toolkit.settings.form_layout import describe_value, name_setting
from toolkit.studies.expectations import HonestScore
from toolkit.studies.interactions import Interaction
from toolkit.studies.objectives import DEFAULT_OBJECTIVE, LOSS_OBJECTIVE, OBJECTIVES
from toolkit.studies.outcomes import Study, find_run_reason
from toolkit.studies.question import describe_ends
from toolkit.studies.verdict import DECIDED_REASON, AxisFinding, StudyVerdict, ValueComparison, is_pruned
from toolkit.system.printable import format_plural, format_share

REASON_STATES = ("failed", "cancelled", "stopped")
"""States of a trial without a result whose reason is in the table."""
INTERVALS_HOLD = "The intervals hold at every moment of looking, over the test rows and the training seeds."


def name_objective(study: Study) -> str:
    """Return the objective in words: "exact match", "test loss"."""
    return study.measured.title


def describe_objective(study: Study) -> str:
    """Return what the trials are compared by, and which direction is better."""
    return f"Objective: {study.measured.title}; {study.measured.direction} is better."


def describe_verdict(study: Study, verdict: StudyVerdict) -> str:
    """Return the paragraph: what matters, what does not, what failed, and which values to use."""
    finished = sum(outcome.value is not None for outcome in study.outcomes)
    if not finished:
        return " ".join(part for part in (_describe_no_result(study), _describe_failures(study)) if part)
    parts = [_describe_finding(study, finding) for finding in verdict.findings]
    parts += [_describe_interaction(study, one) for one in verdict.interactions]
    if not parts:
        parts = ["No setting has several values, so there is nothing to compare."]
    parts += [_describe_growth(study, verdict), _describe_failures(study), _recommend(verdict)]
    parts.append(_describe_score(study, verdict.score))
    withdrawn = sum(one.status is not None and one.status.message == DECIDED_REASON for one in study.outcomes)
    if withdrawn:
        were = "was" if withdrawn == 1 else "were"
        parts.append(f"The study is decided: {format_plural(withdrawn, 'queued run')} {were} cancelled.")
    pruned = sum(one.status is not None and is_pruned(one.status.message) for one in study.outcomes)
    if pruned:
        parts.append(
            f"Successive halving cancelled {format_plural(pruned, 'run')} of losing combinations; the table says "
            "which. The intervals stay valid: which runs follow depends on the results of earlier seeds alone."
        )
    if study.seen_rows:
        parts.append(f"{format_plural(study.seen_rows, 'test row')} that a trial was trained on are left out.")
    return " ".join(part for part in parts if part)


def _describe_no_result(study: Study) -> str:
    """Return why there is nothing to compare: no trial has finished, or the objective does not fit the answers."""
    if not any(outcome.state == "finished" for outcome in study.outcomes):
        return "No trial has a result yet."
    other = OBJECTIVES[DEFAULT_OBJECTIVE if study.objective != DEFAULT_OBJECTIVE else LOSS_OBJECTIVE].title
    reason = f"the runs answered no test rows{_MISFITS.get(study.objective, '')}"
    if not study.measured.by_row:
        reason = "the runs recorded no test loss"
    return (
        f"No finished trial has a value of {name_objective(study)}: {reason}. Choose another objective on Configure, "
        f"or ablation.objective in a config file, for example {other}, and start the study again: nothing is trained "
        "twice."
    )


_MISFITS = {
    "label_accuracy": ", or the expected answers are not a few labels",
    "json_valid": ", or the expected answers are not all JSON objects",
    "json_fields": ", or the expected answers are not all JSON objects",
    "length_ratio": ", or every expected answer is empty",
}
"""Why an objective may have no value in spite of answers, as the end of a sentence."""


def _describe_finding(study: Study, finding: AxisFinding) -> str:
    label = name_setting(finding.path)
    if finding.is_searched:
        low, high = describe_ends(finding.path, finding.values)
        best = describe_value(finding.path, finding.recommended)
        return (
            f"{label}: the best combination so far has {best}; its {len(finding.values)} values from {low} to {high} "
            "are too many to judge one by one."
        )
    if finding.shown is None:
        return f"{label}: too few runs to say; no two finished trials with the same test rows differ in it alone."
    shown = finding.shown
    better, worse = (describe_value(finding.path, value) for value in (shown.better, shown.worse))
    if finding.verdict == "matters":
        return (
            f"{label} matters: {better} instead of {worse} gives {_format_change(study, shown)} "
            f"{name_objective(study)} ({_format_interval(study, shown)}, {_describe_basis(study, shown)})."
        )
    if finding.verdict == "noise":
        return f"{label} is within noise ({better} against {worse}: {_format_interval(study, shown)})."
    return f"{label}: too few runs to say ({_describe_open(study, finding, better, worse)})."


def _describe_interaction(study: Study, one: Interaction) -> str:
    old, new = (describe_value(one.path, value) for value in one.values)
    first, second = (describe_value(one.other, value) for value in one.other_values)
    gains = [_format_difference(study, effect) + study.measured.unit for effect in one.effects]
    low, high = (_format_difference(study, float(end)) for end in (one.difference.low, one.difference.high))
    label = name_setting(one.other)
    return (
        f"{name_setting(one.path)} and {label} depend on each other: {new} instead of {old} gives {gains[0]} with "
        f"{label} {first} and {gains[1]} with {second} (95 % interval of the difference {low} to {high})."
    )


def _describe_open(study: Study, finding: AxisFinding, better: str, worse: str) -> str:
    shown = finding.shown
    if shown is None or shown.difference.pairs < 2:
        return "one pair of trials can't tell an effect from chance; train at least 3 seeds"
    so_far = f"{better} against {worse}: {_format_interval(study, shown)}"
    if any(outcome.state in ("planned", "queued", "starting", "running", "stopping") for outcome in study.outcomes):
        return f"{so_far} so far"
    if finding.seeds_needed is not None:
        return f"{so_far}; about {finding.seeds_needed} seeds would tell"
    if not study.measured.by_row:
        return f"{so_far}; even {MAX_SEEDS_ADVISED} seeds would not tell"
    rows = format_plural(shown.rows, "test row")
    return f"{so_far}; to tell, it takes more than {rows}, not more seeds, or test loss as the objective"


def _format_change(study: Study, shown: ValueComparison) -> str:
    value = float(shown.difference.value)
    return _format_difference(study, -abs(value) if study.measured.lower else abs(value)) + study.measured.unit


def _format_interval(study: Study, shown: ValueComparison) -> str:
    """Return the interval of better - worse: "95 % interval +15 to +31"."""
    low, high = float(shown.difference.low), float(shown.difference.high)
    if (float(shown.difference.value) < 0) != study.measured.lower:
        low, high = -high, -low
    if study.measured.is_share:
        low, high = max(low, -1.0), min(high, 1.0)
    return f"95 % interval {_format_difference(study, low)} to {_format_difference(study, high)}"


def _format_difference(study: Study, value: float) -> str:
    text = f"{100 * value:+.0f}" if study.measured.is_share else f"{value:+.3g}"
    return "0" if float(text) == 0 else text.replace("-", "−")


def _describe_basis(study: Study, shown: ValueComparison) -> str:
    seeds = format_plural(shown.seeds, "seed")
    return f"{format_plural(shown.rows, 'test row')}, {seeds}" if study.measured.by_row else seeds


def _describe_growth(study: Study, verdict: StudyVerdict) -> str:
    growth = verdict.growth
    if growth is None:
        return ""
    gain, low, high = (_format_difference(study, value) for value in (growth.gain, growth.low, growth.high))
    return f"Doubling the training rows would add about {gain} points ({low} to {high}), if the trend continues."


def _describe_failures(study: Study) -> str:
    failed = [one for one in study.outcomes if one.state == "failed" and one.status is not None]
    if not failed:
        return ""
    reasons = list(dict.fromkeys(find_run_reason(one.status) for one in failed if one.status is not None))
    more = f" (and {format_plural(len(reasons) - 1, 'other reason')})" if len(reasons) > 1 else ""
    reason = reasons[0] if reasons[0].endswith((".", "!", "?")) else f"{reasons[0]}."
    return f"{len(failed)} of {format_plural(len(study.outcomes), 'run')} failed{more}: {reason}"


def _recommend(verdict: StudyVerdict) -> str:
    """Return which values to use; an open setting is named as leading only."""
    known = [one for one in verdict.findings if one.shown is not None or one.is_searched]
    settled = [one for one in known if one.verdict != "open" or one.is_joint]
    leading = [one for one in known if one not in settled]
    parts = []
    if settled:
        uses = [
            f"{name_setting(one.path)} {describe_value(one.path, one.recommended)}"
            + (f", the smaller of {_count_equals(one)} equals" if _is_smaller_of_equals(one) else "")
            for one in sorted(settled, key=_is_smaller_of_equals)  # what follows a comma comes last
        ]
        parts.append(f"Use {' and '.join(uses)}.")
    if leading:
        best = [f"{name_setting(one.path)} {describe_value(one.path, find_leading_value(one))}" for one in leading]
        parts.append(f"Leading so far: {' and '.join(best)}.")
    return " ".join(parts)


def _is_smaller_of_equals(finding: AxisFinding) -> bool:
    return finding.is_tie and isinstance(finding.recommended, int | float) and not isinstance(finding.recommended, bool)


def _count_equals(finding: AxisFinding) -> str:
    return "two" if len(finding.values) == 2 else "several"


def find_leading_value(finding: AxisFinding) -> Any:
    """Return the value to continue with: the recommended one, or the best so far of an open setting."""
    is_open = finding.verdict == "open" and not finding.is_joint
    return finding.shown.better if is_open and finding.shown is not None else finding.recommended


def _describe_score(study: Study, score: HonestScore | None) -> str:
    if score is None:
        return ""
    interval = f"{format_result(study, score.low)} to {format_result(study, score.high)}"
    return (
        f"Expect {format_result(study, score.value)} {name_objective(study)} on new rows ({interval}): the best "
        "combination, scored on the half of the test rows that did not choose it."
    )


def format_result(study: Study, value: float) -> str:
    """Return a value of the objective: "82.5 %", "1.23"."""
    return format_share(value) if study.measured.is_share else f"{value:.3g}"


def tabulate_study(study: Study) -> list[dict[str, Any]]:
    """Return one row for each trial: its settings, seed, state, objective, run and the reason of a failure."""
    title = name_objective(study).capitalize()
    return [
        {
            **{name_setting(path): describe_value(path, value) for path, value in outcome.asked.settings.items()},
            "Seed": outcome.asked.seed,
            "State": outcome.state,
            title: outcome.value,
            "Run": outcome.run.id if outcome.run is not None else "",
            "Reason": find_run_reason(outcome.status) if outcome.status and outcome.state in REASON_STATES else "",
        }
        for outcome in study.outcomes
    ]


def format_study_csv(study: Study) -> str:
    """Return the table of trials as CSV, with no cell that a spreadsheet would take for a formula."""
    rows = tabulate_study(study)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(map(escape_formula, rows[0] if rows else []))
    for row in rows:
        writer.writerow([escape_formula(cell) if isinstance(cell, str) else cell for cell in row.values()])
    return file.getvalue()
