"""Token ids -> text that can be shown at once: pieces whose concatenation is the whole text, character by character.

A token may end in the middle of a character, or of a stop text: such an end is held back until it is decided. Only the
last few tokens are decoded again for a piece, so a long answer costs no more per token than a short one. Knows no
model; a decoder is any function from ids to text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPLACEMENT_CHARACTER = "\ufffd"


class TextStream:
    """`push` new ids and get what can be shown; `finish` gives the rest. `text` is all that was given out.

    decode: ids -> text without special tokens.  stops: texts that end the answer and are no part of it.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stops)
        self._held_back = max((len(stop) for stop in self._stops), default=1) - 1
        self._ids: list[int] = []
        self._context = 0  # first id that is decoded again, so that spaces between words come out right
        self._read = 0  # ids before it are in _text
        self._text = ""
        self._given = 0
        self.stopped = False

    @property
    def text(self) -> str:
        return self._text[: self._given]

    def push(self, ids: Sequence[int]) -> str:
        """The next piece, perhaps empty."""
        self._ids.extend(ids)
        self._advance(final=False)
        return self._give(self._held_back)

    def finish(self) -> str:
        """The last piece: what was held back, incomplete characters as U+FFFD."""
        self._advance(final=True)
        return self._give(0)

    def _advance(self, *, final: bool) -> None:
        if self._read == len(self._ids) or self.stopped:
            return
        known = self._decode(self._ids[self._context : self._read])
        window = self._decode(self._ids[self._context :])
        if window.endswith(REPLACEMENT_CHARACTER) and not final:
            return
        self._text += window[len(known) :]
        if window:  # ids without any text (special tokens) can't serve as context
            self._context = self._read
        self._read = len(self._ids)

    def _give(self, held_back: int) -> str:
        if not self.stopped:
            at = min((i for i in map(self._find, self._stops) if i >= 0), default=-1)
            if at >= 0:
                self.stopped, self._text, held_back = True, self._text[:at], 0
        end = max(self._given, len(self._text) - held_back)
        piece = self._text[self._given : end]
        self._given = end
        return piece

    def _find(self, stop: str) -> int:
        return self._text.find(stop, max(0, self._given - len(stop) + 1))


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
