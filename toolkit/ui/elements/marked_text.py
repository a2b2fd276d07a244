"""The component for marked text: words that differ from another answer, or tokens shaded by their probability.

`marked_text.js` draws it. Texts are passed to it as data, never as markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from toolkit.evaluation.statistics.word_diff import diff_words
from toolkit.services.engine_http import Token
from toolkit.system.paths import STATIC

SHADE_LIMITS = (0.9, 0.6, 0.3, 0.1)
"""Probabilities: a token at or above the first is not shaded, one below the last is shaded darkest."""


@dataclass(frozen=True)
class MarkedSpan:
    """A part of a text. kind: "same", "other", or "p0" (likely) to "p4" (unlikely). note: the tooltip."""

    text: str
    kind: str = "same"
    note: str = ""


@st.cache_resource(show_spinner=False)
def _component() -> ComponentRenderer:
    return st.components.v2.component(
        "marked_text",
        html='<div class="marked"></div>',
        css=(STATIC / "marked_text.css").read_text(encoding="utf-8"),
        js=(STATIC / "marked_text.js").read_text(encoding="utf-8"),
    )


def show_marked_text(marks: Sequence[MarkedSpan], key: str) -> None:
    """Draw the text with its marks."""
    _component()(key=key, data={"parts": [asdict(mark) for mark in marks]})


def mark_differences(text: str, reference: str) -> list[MarkedSpan]:
    """Return the spans of `text`, with the words that differ from `reference` marked."""
    return [MarkedSpan(part.text, "other" if part.changed else "same") for part in diff_words(reference, text)[1]]


def mark_likelihoods(tokens: Sequence[Token]) -> list[MarkedSpan]:
    """Return a span for each token, shaded by its probability, with the top alternatives in the tooltip."""
    return [MarkedSpan(token.text.replace("\n", "↵\n"), f"p{_shade(token)}", _note(token)) for token in tokens]


def _shade(token: Token) -> int:
    probability = math.exp(token.logprob)
    return sum(probability < limit for limit in SHADE_LIMITS)


def _note(token: Token) -> str:
    lines = [f"{_token_label(token.text)}  {logprob_percent(token.logprob)}"]
    others = [(text, value) for text, value in token.top if text != token.text]
    lines += [f"{_token_label(text)}  {logprob_percent(value)}" for text, value in others]
    return "\n".join(lines)


def _token_label(text: str) -> str:
    return repr(text) if text.strip() != text or not text else text


def logprob_percent(logprob: float) -> str:
    """Return a natural log-probability as a percentage: -0.01 -> "99 %", -9 -> "0.012 %"."""
    share = 100 * math.exp(logprob)
    return f"{share:.0f} %" if share >= 10 else f"{share:.2g} %"
