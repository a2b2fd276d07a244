"""The verdict on an evaluation in sentences: whether it is better, what it broke, what it forgot, and the gate.

The sentences claim no more than the intervals support.
"""

from __future__ import annotations

from toolkit.evaluation.statistics.intervals import MAX_P_VALUE, MIN_INTERVAL_ROWS
from toolkit.evaluation.statistics.measures import MEASURES_BY_NAME, Measure
from toolkit.evaluation.statistics.pass_rules import Gate
from toolkit.evaluation.statistics.results import (
    EvaluationResults,
    Figure,
    FigureDifference,
    FigureValue,
    FlipCounts,
    GateFigure,
    Verdict,
)
from toolkit.runs.model_names import BASE
from toolkit.system.printable import format_number, format_plural, format_share

HEADLINE_MEASURES = ("exact_match", "json_fields", "token_f1", "loss", "perplexity")
"""The verdict rests on the first of these that is informative for the rows."""
MIN_HEADLINE_SHARE = 0.05
"""A share that no model reaches is not informative: free text hardly ever matches exactly."""
BASE_MODEL_PHRASE = "its base model"
FITTING_MEASURES = {
    "label_accuracy": ("label_accuracy", "exact_match", "loss"),
    "json_fields": ("json_fields", "json_valid", "exact_match"),
    "": ("token_f1", "chrf", "loss"),
}
"""The measures that suit labels, JSON and free text. Keys: the measure that only this kind of answer has."""
VERDICT_SENTENCES = {
    "better": "It is better than {}.",
    "worse": "It is worse than {}.",
    "noise": "These rows show no significant difference from {}.",
    "differs": "It differs from {}.",
}


def verdict_sentence(verdict: Verdict, reference: str = BASE_MODEL_PHRASE) -> str:
    """Return the first sentence of a verdict. reference: what it is compared with, in words."""
    before, after = VERDICT_SENTENCES[verdict].split("{}")
    return f"{before}{reference}{after}"


def judge_results(results: EvaluationResults, gate: Gate | None) -> EvaluationResults:
    """Return the results with headline, sentences and gate filled in. gate: None leaves it out."""
    headline = _headline(results)
    named = results.model_copy(update={"headline": headline})
    return named.model_copy(
        update={
            "sentences": {name: describe_comparison(named, name) for name in named.adapters},
            "gate": {name: _judge_gate(named, gate, name) for name in named.adapters} if gate else {},
        }
    )


def _headline(results: EvaluationResults) -> str | None:
    for name in HEADLINE_MEASURES:
        figure = results.figure(name)
        if figure is None:
            continue
        values = [value.value or 0.0 for value in figure.models.values()]
        if MEASURES_BY_NAME[name].form == "figure" or max(values) >= MIN_HEADLINE_SHARE:
            return name
    return None


def list_fitting_measures(results: EvaluationResults) -> tuple[str, ...]:
    """Return the two or three measures that suit these answers, the one behind the verdict first."""
    kind = next(key for key in FITTING_MEASURES if not key or results.figure(key) is not None)
    names = dict.fromkeys((results.headline or "", *FITTING_MEASURES[kind]))
    return tuple(name for name in names if results.figure(name) is not None)[:3]


def describe_comparison(
    results: EvaluationResults,
    name: str,
    reference: str = BASE,
    reference_phrases: tuple[str, str] = (BASE_MODEL_PHRASE, "base"),
) -> tuple[str, ...]:
    """Return sentences that compare `name` with `reference`, the most important first.

    reference_phrases: how to call the reference inside a sentence, and before a value.
    """
    figure = results.figure(results.headline) if results.headline else None
    if figure is None:
        unjudged = "The rows have no expected answers, so nothing can be scored. Read the answers row by row."
        forgotten = _forgetting_sentence(results.probe, name) if reference == BASE else ""
        return (unjudged, forgotten) if forgotten else (unjudged,)
    return tuple(
        sentence
        for sentence in (
            verdict_sentence(figure.difference_from(reference, name).verdict, reference_phrases[0]),
            _headline_sentence(figure, name, reference, reference_phrases[1]),
            f"{format_plural(figure.rows, 'row')} {'is' if figure.rows == 1 else 'are'} too few to distinguish a "
            "change from chance."
            if figure.rows < MIN_INTERVAL_ROWS
            else _explain_noise(figure.difference_from(reference, name)),
            describe_clean_rows(results),
            _flips_sentence(results.flips_of(reference, name)) if results.headline == "exact_match" else "",
            _forgetting_sentence(results.probe, name) if reference == BASE else "",
        )
        if sentence
    )


def _headline_sentence(figure: Figure, name: str, reference: str, reference_phrase: str) -> str:
    measure = MEASURES_BY_NAME[figure.measure]
    value, other = figure.models[name], figure.models[reference]
    difference = format_difference(measure, figure.difference_from(reference, name))
    return (
        f"{measure.title} over {format_plural(figure.rows, 'row')}: {format_measure_value(measure, value.value)}, "
        f"{reference_phrase} {format_measure_value(measure, other.value)}; difference {difference}."
    )


def _explain_noise(difference: FigureDifference) -> str:
    """Return why a difference whose interval excludes zero counts as noise; "" for any other difference."""
    low, high = difference.low, difference.high
    if difference.verdict != "noise" or low is None or high is None or low <= 0 <= high:
        return ""
    return (
        f"Too few rows differ to rule out chance: the sign-flip test gives p = {difference.p:.2g}, and only below "
        f"{MAX_P_VALUE:g} counts as a difference. More test rows can decide it."
    )


def describe_clean_rows(results: EvaluationResults) -> str:
    """Return how many rows the figures rest on, where a compared model was trained on some of them; else ""."""
    if not results.seen:
        return ""
    whose = "its" if len(results.adapters) == 1 else "a compared run's"
    if not results.excluded:
        also = f"All of these rows are also in {whose} training set"
        return f"{also}: the figures show what was memorized, not what was learned."
    rows = "row" if results.compared_rows == 1 else format_plural(results.compared_rows, "row")
    answered = format_plural(results.answered, "row")
    verbs = ("is", "was") if results.excluded == 1 else ("are", "were")
    return (
        f"{results.excluded:,} of {answered} {verbs[0]} also in {whose} training set and {verbs[1]} excluded, so the "
        f"figures are over the other {rows}."
    )


def _flips_sentence(flips: FlipCounts) -> str:
    if flips.fixed + flips.broke == 0:
        return "No row changed between correct and wrong."
    return f"It fixed {format_plural(flips.fixed, 'row')} and broke {flips.broke:,}."


def _forgetting_sentence(figure: Figure | None, name: str) -> str:
    if figure is None:
        return ""
    before, after = figure.models["base"].value, figure.models[name].value
    difference = figure.differences[name]
    if before is None or after is None:
        return ""
    change = f"the loss on general text went from {format_number(before, 3)} to {format_number(after, 3)}"
    if difference.verdict == "worse":
        return f"It shows forgetting: {change}."
    if difference.verdict == "better":
        return f"It shows no forgetting: {change}."
    return f"It shows no forgetting: {change}, within noise."


def _judge_gate(results: EvaluationResults, gate: Gate, name: str) -> GateFigure:
    failed: list[str] = []
    passed: list[str] = []
    if gate.improves is not None:
        title = MEASURES_BY_NAME[gate.improves].title
        figure = results.figure(gate.improves)
        verdict = figure.differences[name].verdict if figure else None
        if verdict == "better":
            passed.append(f"{title} is better than that of the base model.")
        elif verdict is None:
            failed.append(f"{title} can't be computed for these rows.")
        else:
            failed.append(
                f"{title} is {'worse than that of the base model' if verdict == 'worse' else 'within noise'}."
            )
    if gate.rules:
        for rule in results.rules:
            share = rule.kept[name].value if name in rule.kept else None
            enough = share is not None and share >= rule.at_least
            shown = "–" if share is None else format_share(share)
            reason = f"The answer {rule.title}: {shown} of the answers, {format_share(rule.at_least)} required."
            (passed if enough else failed).append(reason)
    if not results.complete:
        failed.append(f"Only {results.answered:,} of {format_plural(results.asked, 'row')} were answered.")
    return GateFigure(passed=not failed, reasons=tuple(failed or passed))


def format_measure_value(measure: Measure, value: float | None) -> str:
    """Return a value in its measure's unit: "94.5 %", "0.231"."""
    if value is None:
        return "–"
    return format_share(value) if measure.form == "share" else format_number(value, 3)


def format_with_interval(measure: Measure, value: FigureValue) -> str:
    """Return a value with its interval: "94.5 % (90.6 to 98.4)"."""
    shown = format_measure_value(measure, value.value)
    if value.low is None or value.high is None:
        return shown
    if measure.form == "share":
        return f"{shown} ({100 * value.low:.1f} to {100 * value.high:.1f})"
    return f"{shown} ({format_number(value.low, 3)} to {format_number(value.high, 3)})"


def format_difference(measure: Measure, difference: FigureDifference) -> str:
    """Return a difference with its interval: "+94.5 points (+90.6 to +98.4)"."""
    if difference.value is None:
        return "–"
    factor, unit = (100.0, " points") if measure.form == "share" else (1.0, "")

    def signed(value: float) -> str:
        number = value * factor
        return f"{number:+.1f}".replace("-", "−") if measure.form == "share" else format_number(number, 3, signed=True)

    if difference.low is None or difference.high is None:
        return f"{signed(difference.value)}{unit}"
    return f"{signed(difference.value)}{unit} ({signed(difference.low)} to {signed(difference.high)})"
