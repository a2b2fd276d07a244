"""How far the log-probabilities of a correct export may be from those of training.

Rounding moves every model by another amount, so it is measured: the golden prompts are scored once more with the
unmerged model, in float32 and in the export's precision. Where that is not possible, a table by precision is used.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.export.prompt_contract import FrozenModel, PromptContract

SAME_DRIFT, SAME_MEAN = 0.002, 0.00016
"""Nats, for one token and on average: below both, a difference comes from the order of additions only."""
NOISE_FACTOR, NOISE_MEAN_FACTOR = 6.0, 2.0
"""A correct export may drift by this multiple of the largest and of the mean measured noise.

Merging rounds each weight once more than the unmerged model does. Measured on random Gemma2, Mistral and Qwen2 models,
correct exports are at most 2.3 and 1.3 times the noise. The mean finds a wrong weight: it shifts all tokens.
"""
ASSUMED_BOUNDS = {"float32": SAME_DRIFT, "float16": 0.05, "bfloat16": 0.4, "q8_0": 0.4}
ASSUMED_BOUNDS |= {"q6_k": 1.0, "q5_k_m": 2.0, "q4_k_m": 4.0}  # one bit fewer is twice the error
"""Without a measurement: the largest change of one token's log-probability, by the coarser of the two precisions."""
ASSUMED_MEAN_SHARE = 0.08
"""Without a measurement, the mean over all tokens may be this share of the bound."""
ASSUMED_SPREAD_SHARE = {"float32": 0.001, "float16": 0.004, "bfloat16": 0.025, "q8_0": 0.025}
ASSUMED_SPREAD_SHARE |= {"q6_k": 0.06, "q5_k_m": 0.125, "q4_k_m": 0.25}
"""And at most this share of the standard deviation of the golden log-probabilities: in a model with flat distributions
a wrong weight changes little."""
TIE_FACTOR, TIE_NOISE_FACTOR = 3.0, 4.0
"""Answers may diverge where the likeliest token led the second by less than this multiple of the allowed mean, or of
the largest noise of a token of the golden answers: both tokens move, and a router may choose another expert."""


class RoundingNoise(FrozenModel):
    """What rounding does to the golden log-probabilities of the unmerged model (nats): largest and mean change.

    answers: the largest change of a token of the answers.
    """

    largest: float
    mean: float
    answers: float = 0.0


@dataclass(frozen=True)
class DriftBounds:
    """Allowed drift of one token, and on average (nats). said: where the bounds come from.

    tie: the lead of a token below which rounding decides which of two is chosen.
    """

    largest: float
    mean: float
    tie: float
    said: str


def measure_rounding_noise(
    contract: PromptContract, exact: Sequence[Sequence[float]], rounded: Sequence[Sequence[float]]
) -> RoundingNoise:
    """Return the noise from the log-probabilities of each golden prompt, of the prompt's tokens and then the answer's.

    exact, rounded: of the unmerged model in float32 and in the export's precision. Both changes count: training may
    have computed in a coarser precision, or on a quantized base.
    """
    changes: list[float] = []
    answers = 0.0
    for golden, finer, coarser in zip(contract.golden, exact, rounded, strict=True):
        trained = (*golden.prompt_logprobs, *golden.logprobs)
        found = [abs(a - b) + abs(c - b) for a, b, c in zip(trained, finer, coarser, strict=True)]
        answers = max(answers, *found[len(golden.prompt_logprobs) :], 0.0)
        changes += found
    mean = sum(changes) / len(changes) if changes else 0.0
    return RoundingNoise(largest=round(max(changes, default=0.0), 6), mean=round(mean, 6), answers=round(answers, 6))


def bound_drift(contract: PromptContract, precision: str, noise: RoundingNoise | None) -> DriftBounds:
    """Return what is allowed of an export that promises `precision`."""
    if noise is not None:
        mean = max(SAME_MEAN, NOISE_MEAN_FACTOR * noise.mean)
        return DriftBounds(
            max(SAME_DRIFT, NOISE_FACTOR * noise.largest),
            mean,
            max(TIE_FACTOR * mean, TIE_NOISE_FACTOR * noise.answers),
            f"measured on the unmerged model: rounding to {precision} alone changes it by at most "
            f"{noise.largest:.3g}, on average {noise.mean:.3g}",
        )
    usual = ASSUMED_BOUNDS["bfloat16"]
    coarser = max((contract.precision, precision), key=lambda name: ASSUMED_BOUNDS.get(name, usual))
    largest = ASSUMED_BOUNDS.get(coarser, usual)
    share = ASSUMED_SPREAD_SHARE.get(coarser, ASSUMED_SPREAD_SHARE["bfloat16"])
    mean = min(largest * ASSUMED_MEAN_SHARE, share * _logprob_spread(contract))
    return DriftBounds(largest, mean, TIE_FACTOR * mean, f"usual for {coarser}")


def _logprob_spread(contract: PromptContract) -> float:
    values = [value for golden in contract.golden for value in (*golden.prompt_logprobs, *golden.logprobs)]
    return statistics.pstdev(values) if len(values) > 1 else math.inf
