"""What is measured: every measure's name, title, direction and meaning. Knows no answer and no number.

The original toolkit's measures are here in a correct form: words where it compared sets of letters, a bounded cosine
where it had a bare dot product, both directions of word overlap where it had one under the other's name. Its shares of
English verbs, adjectives and nouns are left out: they need a tagger from the network and judge no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BetterDirection = Literal["higher", "lower", "neither"]
MeasureKind = Literal["share", "figure"]


@dataclass(frozen=True)
class Measure:
    """form: "share" is 0 .. 1 and shown in per cent, "figure" a plain number. better: which direction is progress."""

    name: str
    title: str
    help: str
    better: BetterDirection = "higher"
    form: MeasureKind = "share"
    group: str = "Right or wrong"


_OVERLAP, _LENGTH, _SURPRISE = "Closeness of the words", "Length", "Surprise"

MEASURES = (
    Measure("exact_match", "Exact match", "The answer is the expected one, character by character, outer space aside."),
    Measure("same_words", "Same words", "The same words in the same order: case, punctuation and spacing set aside."),
    Measure("label_accuracy", "Label accuracy", "Few answers occur, so each is a label: is it the right one?"),
    Measure("json_valid", "Valid JSON", "The answer parses as JSON; one Markdown fence around it is allowed."),
    Measure("json_fields", "JSON fields right", "Of the expected JSON's fields, the share that the answer has right."),
    Measure("loss", "Loss", "Surprise at the expected answer, in nats a token.", "lower", "figure", _SURPRISE),
    Measure("perplexity", "Perplexity", "Exponential of the loss: 1 is certainty.", "lower", "figure", _SURPRISE),
    Measure("token_f1", "Word F1", "Words in common: precision and recall balanced.", group=_OVERLAP),
    Measure("rouge_1", "ROUGE-1", "Words of the answer that the expected one has (precision).", group=_OVERLAP),
    Measure("word_overlap", "Word recall", "Words of the expected answer that the answer has.", group=_OVERLAP),
    Measure("rouge_l", "ROUGE-L", "Longest common sequence of words (F1).", group=_OVERLAP),
    Measure("chrf", "chrF", "Runs of characters shared with the expected answer, mean of the rows.", group=_OVERLAP),
    Measure("jaccard", "Jaccard", "Different words in both, of the different words in either.", group=_OVERLAP),
    Measure("cosine", "Cosine", "Between the two answers' word counts: 1 is the same mixture.", group=_OVERLAP),
    Measure("length_difference", "Length difference", "Characters too many or too few.", "lower", "figure", _LENGTH),
    Measure("length_ratio", "Length ratio", "Characters answered by those expected.", "neither", "figure", _LENGTH),
)  # fmt: skip
MEASURES_BY_NAME = {measure.name: measure for measure in MEASURES}

LOSS_MEASURE = "loss"
EXACT_MATCH_MEASURE = "exact_match"
GATE_MEASURES = tuple(m.name for m in MEASURES if m.better != "neither")
"""Measures that a gate may ask to rise (or, where lower is better, to fall)."""

MAX_ANSWER_LABELS = 20
"""Up to so many different expected answers, each twice or more on average, they are taken for labels."""
