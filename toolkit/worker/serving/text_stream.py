"""Turn token ids into pieces of text that can be shown at once; their concatenation is exactly the whole text.

A token may end in the middle of a character, or in the middle of a stop text. Such an end is held back until it is
complete. Only the last few tokens are decoded again for each piece, so the cost per token does not grow with the length
of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

REPLACEMENT_CHARACTER = "\ufffd"
"""What tokenizers decode an incomplete character to."""


class TextStream:
    """Decoder of a stream of ids: `push` returns the next piece of text, `finish` the last one.

    decode: ids to text, without special tokens. stops: texts that end the answer and are not part of it. header: ids
    with which the answer may begin, and which are not part of it either.
    """

    def __init__(
        self, decode: Callable[[list[int]], str], stops: Sequence[str] = (), header: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        self._header = list(header)  # until it has passed, or the answer has turned out not to begin with it
        self._stops = tuple(stops)
        self._held_back = max((len(stop) for stop in self._stops), default=1) - 1
        self._ids: list[int] = []
        self._context = 0  # first id that is decoded again: a decoder needs the word before to place spaces
        self._read = 0  # number of ids whose text is in _text
        self._text = ""
        self._returned = 0  # characters of _text that were returned
        self.stopped = False

    @property
    def text(self) -> str:
        """All text that was returned so far."""
        return self._text[: self._returned]

    def push(self, ids: Sequence[int]) -> str:
        """Add ids and return the next piece, which may be empty."""
        self._ids.extend(ids)
        if self._waits_for_header():
            return ""
        self._advance(final=False)
        return self._next_piece(self._held_back)

    def _waits_for_header(self) -> bool:
        """Return whether the ids so far may still become the header; drop them once they have."""
        begun = self._ids[: len(self._header)]
        if not self._header or begun != self._header[: len(begun)]:
            self._header = []
            return False
        if len(begun) < len(self._header):
            return True
        del self._ids[: len(self._header)]
        self._header = []
        return False

    def finish(self) -> str:
        """Return the last piece: everything that was held back, with incomplete characters as U+FFFD."""
        self._advance(final=True)
        return self._next_piece(0)

    def _advance(self, *, final: bool) -> None:
        if self._read == len(self._ids) or self.stopped:
            return
        known = self._decode(self._ids[self._context : self._read])
        window = self._decode(self._ids[self._context :])
        if window.endswith(REPLACEMENT_CHARACTER) and not final:
            return
        self._text += window[len(known) :]
        if window:  # ids without text (special tokens) do not serve as context
            self._context = self._read
        self._read = len(self._ids)

    def _next_piece(self, held_back: int) -> str:
        if not self.stopped:
            at = min((i for i in map(self._find, self._stops) if i >= 0), default=-1)
            if at >= 0:
                self.stopped, self._text, held_back = True, self._text[:at], 0
        end = max(self._returned, len(self._text) - held_back)
        piece = self._text[self._returned : end]
        self._returned = end
        return piece

    def _find(self, stop: str) -> int:
        return self._text.find(stop, max(0, self._returned - len(stop) + 1))


@dataclass(frozen=True)
class TokenScore:
    """A token as text, its natural log-probability, and the most likely tokens at its position, which may include it.

    Log-probabilities are those of the model, before temperature and cutoffs.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that an answer asks for. index: its number in the answer. arguments: JSON text."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class TextPiece:
    """The next part of an answer. tokens: the scores of the tokens since the last piece, if they were requested."""

    text: str
    tokens: tuple[TokenScore, ...] = ()
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
