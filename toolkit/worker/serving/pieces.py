"""What travels from the computing thread to a connection: pieces of text, with the figures of their tokens if asked.

Plain records: no model, no HTTP, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenScore:
    """A token as text, its natural log-probability, and the likeliest tokens in its place, itself perhaps among them.

    Log-probabilities are the model's own: before temperature and cut-offs.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class TextPiece:
    """The next stretch of an answer. tokens: those heard since the last piece, when they were asked for."""

    text: str
    tokens: tuple[TokenScore, ...] = ()
