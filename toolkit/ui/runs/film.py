"""A run's film strip for the screen: its frames by step, read on from where the last look ended, and word differences.

Knows the strip's file and text, no widget.
"""

from __future__ import annotations

import difflib
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.runs.events import Event, is_finite_number, read_events
from toolkit.ui.elements.escape import escape_text

MAX_OPEN_FILMS = 20
MAX_DIFF_WORDS = 600
"""Longer texts are compared up to here: the comparison's cost grows with the square."""
DiffKind = Literal["same", "new", "gone"]
_DIFF_TOKENS = re.compile(r"\n|[^\S\n]+|\w+|[^\w\s]")


@dataclass(frozen=True)
class PinnedPrompt:
    """A pinned prompt; expected is None where nobody knows what should come."""

    prompt: str
    expected: str | None


@dataclass(frozen=True)
class Film:
    """frames: step -> one answer a pin."""

    pins: tuple[PinnedPrompt, ...]
    frames: dict[int, tuple[str, ...]]

    @property
    def steps(self) -> list[int]:
        return sorted(self.frames)

    def before(self, step: int) -> int | None:
        """The evaluation before this one."""
        return max((other for other in self.frames if other < step), default=None)

    def right_since(self, pin: int, step: int) -> int | None:
        """The first step from which this pin was answered as expected, up to `step` without a break."""
        since = None
        for earlier in reversed([other for other in self.steps if other <= step]):
            if not matches_expected(self.frames[earlier][pin], self.pins[pin].expected):
                break
            since = earlier
        return since


def matches_expected(answer: str, expected: str | None) -> bool:
    """Equal, outer white space aside: what the run's own scores count."""
    return expected is not None and answer.strip() == expected.strip()


class _FilmReader:
    """Follows one film file. A step that a later attempt replayed shows the later answers."""

    def __init__(self) -> None:
        self.offset = 0
        self.pins: tuple[PinnedPrompt, ...] = ()
        self.frames: dict[int, tuple[str, ...]] = {}

    def read_on(self, path: Path) -> None:
        if path.exists() and path.stat().st_size < self.offset:
            self.__init__()  # type: ignore[misc]  # a torn tail was cut off: look again from the start
        new, self.offset = read_events(path, self.offset)
        for event in new:
            self._take(event)

    def _take(self, event: Event) -> None:
        if event["kind"] == "pinned" and isinstance(event.get("pins"), list):
            self.pins = tuple(PinnedPrompt(str(pin["prompt"]), pin.get("expected")) for pin in event["pins"])
        elif event["kind"] == "answers" and is_finite_number(event.get("step")):
            texts = tuple(map(str, event.get("texts") or ()))
            if len(texts) == len(self.pins):
                self.frames[int(event["step"])] = texts


_readers: OrderedDict[Path, _FilmReader] = OrderedDict()
_readers_lock = threading.Lock()


def read_film(path: Path) -> Film:
    """The strip as it stands. Costs only what is new since the last call."""
    with _readers_lock:
        reader = _readers.setdefault(path, _FilmReader())
        _readers.move_to_end(path)
        while len(_readers) > MAX_OPEN_FILMS:
            _readers.popitem(last=False)
        reader.read_on(path)
        return Film(reader.pins, dict(reader.frames))


def word_diff(old: str, new: str) -> list[tuple[DiffKind, str]]:
    """Pieces whose "same" and "new" ones together are `new`, and whose "same" and "gone" ones are `old`.

    Beyond MAX_WORDS pieces of either text the rest of `new` is "same".
    """
    before, after = _DIFF_TOKENS.findall(old), _DIFF_TOKENS.findall(new)
    rest = "".join(after[MAX_DIFF_WORDS:])
    before, after = before[:MAX_DIFF_WORDS], after[:MAX_DIFF_WORDS]
    found: list[tuple[DiffKind, str]] = []
    for way, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if way == "equal":
            found.append(("same", "".join(after[c:d])))
            continue
        found += [("gone", "".join(before[a:b]))] if b > a else []
        found += [("new", "".join(after[c:d]))] if d > c else []
    return [*found, ("same", rest)] if rest else found


def format_word_diff(
    pieces: list[tuple[DiffKind, str]], *, new: str = "green-background", gone: str | None = "gray"
) -> str:
    """Text from a model as text on screen: what is new on a ground of colour, what is gone struck through.

    gone: None leaves it out.
    """
    shown = []
    for kind, text in pieces:
        if kind == "gone" and gone is None:
            continue
        for part in re.split(r"(\n)", text):
            lead, core, trail = _split_margins(part)
            body = escape_text(core, 10_000)
            marked = {"same": body, "new": f":{new}[**{body}**]", "gone": f":{gone}[~~{body}~~]"}[kind] if core else ""
            shown.append("  \n" if part == "\n" and kind != "gone" else f"{lead}{marked}{trail}")
    return "".join(shown)


def _split_margins(part: str) -> tuple[str, str, str]:
    core = part.strip()
    if not core:
        return (" " if part else ""), "", ""
    return " " * part[0].isspace(), core, " " * part[-1].isspace()
