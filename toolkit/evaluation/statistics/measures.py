"""The measures of an evaluation: name, title, direction and meaning of each.

The measures of the original toolkit are here in a correct form: words where it compared sets of letters, a bounded
cosine where it had a dot product, and both directions of word overlap where it had one under the name of the other.
Its shares of English verbs, adjectives and nouns are left out: they need a tagger from the network and judge no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BetterDirection = Literal["higher", "lower", "neither"]
MeasureKind = Literal["share", "figure"]


@dataclass(frozen=True)
class Measure:
    """One measure. form: "share" is 0 to 1 and shown in percent, "figure" a plain number.

    better: which direction is an improvement. group: heading under which it is shown.
    """

    name: str
    title: str
    help: str
    better: BetterDirection = "higher"
    form: MeasureKind = "share"
    group: str = "Right or wrong"


_OVERLAP, _LENGTH, _LOSS = "Word overlap", "Length", "Loss"

MEASURES = (
    Measure("exact_match", "Exact match", "The answer equals the expected one, ignoring white space at both ends."),
    Measure("same_words", "Same words", "The same words in the same order, ignoring case, punctuation and spacing."),
    Measure("label_accuracy", "Label accuracy", "Share of correct labels, if the expected answers are labels."),
    Measure("json_valid", "Valid JSON", "The answer parses as JSON; a Markdown code fence around it is allowed."),
    Measure("json_fields", "Correct JSON fields", "Share of the expected JSON fields that are correct in the answer."),
    Measure("loss", "Loss", "Cross-entropy of the expected answer, in nats per token.", "lower", "figure", _LOSS),
    Measure("perplexity", "Perplexity", "Exponential of the loss; 1 means full certainty.", "lower", "figure", _LOSS),
    Measure("token_f1", "Word F1", "Harmonic mean of word precision and recall.", group=_OVERLAP),
    Measure("rouge_1", "ROUGE-1", "Share of the answer's words that are in the expected answer.", group=_OVERLAP),
    Measure("word_overlap", "Word recall", "Share of the expected words that are in the answer.", group=_OVERLAP),
    Measure("rouge_l", "ROUGE-L", "Longest common subsequence of words (F1).", group=_OVERLAP),
    Measure("chrf", "chrF", "Overlap of character n-grams, averaged over the rows.", group=_OVERLAP),
    Measure("jaccard", "Jaccard", "Distinct words in both texts, divided by those in either text.", group=_OVERLAP),
    Measure("cosine", "Cosine", "Cosine similarity of the word counts.", group=_OVERLAP),
    Measure("length_difference", "Length difference", "Difference in characters.", "lower", "figure", _LENGTH),
    Measure("length_ratio", "Length ratio", "Answer length divided by expected length.", "neither", "figure", _LENGTH),
)  # fmt: skip
MEASURES_BY_NAME = {measure.name: measure for measure in MEASURES}

LOSS_MEASURE = "loss"
EXACT_MATCH_MEASURE = "exact_match"
GATE_MEASURES = tuple(m.name for m in MEASURES if m.better != "neither")
"""Measures that a gate may require to improve."""

MAX_ANSWER_LABELS = 20
"""At most so many distinct expected answers, each occurring twice or more on average, are treated as labels."""
