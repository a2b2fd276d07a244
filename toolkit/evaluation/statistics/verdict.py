"""Figures into plain sentences: is it better, what did it break, has it forgotten, may it be promoted.

The words say no more than the intervals do. Knows records alone.
"""

from __future__ import annotations

from toolkit.evaluation.statistics.intervals import MIN_INTERVAL_ROWS
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

HEADLINE_MEASURES = ("exact_match", "json_fields", "token_f1", "loss", "perplexity")
"""The verdict rests on the first of these that says anything about these rows."""
MIN_HEADLINE_SHARE = 0.05
"""A share that no model reaches says nothing: free text is hardly ever matched exactly."""
BASE_MODEL_PHRASE = "its base model"
VERDICT_SENTENCES = {
    "better": "It is better than {}.",
    "worse": "It is worse than {}.",
    "noise": "No difference to {} that these rows can show.",
    "differs": "It differs from {}.",
}


def verdict_sentence(verdict: Verdict, reference: str = BASE_MODEL_PHRASE) -> str:
    """The first sentence of a verdict. reference: what it is compared with, in words."""
    before, after = VERDICT_SENTENCES[verdict].split("{}")
    return f"{before}{reference}{after}"


def judge_results(results: EvaluationResults, gate: Gate | None) -> EvaluationResults:
    """The same results with headline, sentences and gate filled in."""
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


def describe_comparison(
    results: EvaluationResults, name: str, reference: str = BASE, called: tuple[str, str] = (BASE_MODEL_PHRASE, "base")
) -> tuple[str, ...]:
    """`name` against `reference`, most important first. called: the reference in a sentence, and before a value."""
    figure = results.figure(results.headline) if results.headline else None
    if figure is None:
        unjudged = "No expected answers are known, so nothing can be called right or wrong: read the rows."
        forgotten = _forgetting_sentence(results.probe, name) if reference == BASE else ""
        return (unjudged, forgotten) if forgotten else (unjudged,)
    return tuple(
        sentence
        for sentence in (
            verdict_sentence(figure.difference_from(reference, name).verdict, called[0]),
            _headline_sentence(figure, name, reference, called[1]),
            f"With only {_rows(figure.rows)}, chance can't be told from change."
            if figure.rows < MIN_INTERVAL_ROWS
            else "",
            _flips_sentence(results.flips_of(reference, name)) if results.headline == "exact_match" else "",
            _forgetting_sentence(results.probe, name) if reference == BASE else "",
        )
        if sentence
    )


def _headline_sentence(figure: Figure, name: str, reference: str, called: str) -> str:
    measure = MEASURES_BY_NAME[figure.measure]
    value, other = figure.models[name], figure.models[reference]
    return (
        f"{measure.title} over {_rows(figure.rows)}: {format_measure_value(measure, value.value)}, "
        f"{called} {format_measure_value(measure, other.value)}; difference {format_difference(measure, figure.difference_from(reference, name))}."
    )


def _flips_sentence(flips: FlipCounts) -> str:
    if flips.fixed + flips.broke == 0:
        return "No row changed sides."
    return f"It fixed {_rows(flips.fixed)} and broke {flips.broke:,}."


def _forgetting_sentence(figure: Figure | None, name: str) -> str:
    if figure is None:
        return ""
    before, after = figure.models["base"].value, figure.models[name].value
    gap = figure.differences[name]
    if before is None or after is None:
        return ""
    moved = f"the loss on text that it should still know went from {before:.3g} to {after:.3g}"
    if gap.verdict == "worse":
        return f"It has forgotten something: {moved}."
    if gap.verdict == "better":
        return f"It has not forgotten: {moved}."
    return f"No sign of forgetting: {moved}, within noise."


def _judge_gate(results: EvaluationResults, gate: Gate, name: str) -> GateFigure:
    against: list[str] = []
    held: list[str] = []
    if gate.improves is not None:
        title = MEASURES_BY_NAME[gate.improves].title
        figure = results.figure(gate.improves)
        verdict = figure.differences[name].verdict if figure else None
        if verdict == "better":
            held.append(f"{title} is better than the base model's.")
        elif verdict is None:
            against.append(f"{title} can't be known for these rows.")
        else:
            against.append(f"{title} is {'worse' if verdict == 'worse' else 'within noise'}.")
    if gate.rules:
        for rule in results.rules:
            share = rule.kept[name].value if name in rule.kept else None
            kept = share is not None and share >= rule.at_least
            shown = "–" if share is None else _percent(share)
            (held if kept else against).append(
                f"The answer {rule.title}: {shown} of the answers, {_percent(rule.at_least)} wanted."
            )
    if not results.complete:
        against.append(f"Only {results.answered:,} of {_rows(results.asked)} were answered.")
    return GateFigure(passed=not against, reasons=tuple(against or held))


def format_measure_value(measure: Measure, value: float | None) -> str:
    """A value in its measure's unit: "94.5 %", "0.231"."""
    if value is None:
        return "–"
    return _percent(value) if measure.form == "share" else f"{value:.3g}"


def format_with_interval(measure: Measure, value: FigureValue) -> str:
    """ "94.5 % (90.6 – 98.4)"."""
    shown = format_measure_value(measure, value.value)
    if value.low is None or value.high is None:
        return shown
    factor = 100 if measure.form == "share" else 1
    form = ".1f" if measure.form == "share" else ".3g"
    return f"{shown} ({value.low * factor:{form}} – {value.high * factor:{form}})"


def format_difference(measure: Measure, gap: FigureDifference) -> str:
    """A difference with its interval: "+94.5 points (+90.6 to +98.4)"."""
    if gap.value is None:
        return "–"
    factor, unit = (100.0, " points") if measure.form == "share" else (1.0, "")

    def signed(value: float) -> str:
        number = value * factor
        return f"{number:+.1f}" if measure.form == "share" else f"{number:+.3g}"

    if gap.low is None or gap.high is None:
        return f"{signed(gap.value)}{unit}"
    return f"{signed(gap.value)}{unit} ({signed(gap.low)} to {signed(gap.high)})"


def _percent(share: float) -> str:
    """ "95.7 %"; "100 %" is all of them and "0 %" none, however many there are."""
    rounded = min(max(share, 0.001), 0.999) if 0 < share < 1 else share
    return f"{100 * rounded:.1f} %".replace(".0 %", " %")


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
