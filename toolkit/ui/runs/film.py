"""Sample outputs of a run: the answers to its pinned prompts before training and at every evaluation.

Read from the run's `film.jsonl`: a `pinned` event per attempt with the prompts, an `answers` event per evaluated step.
Readers are cached by path and continue where the last call ended.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from toolkit.runs.event_facts import PinnedPrompt
from toolkit.runs.events import Event, is_finite_number, read_events

MAX_CACHED_READERS = 20
"""Runs whose sample outputs stay in memory; the least recently read one is dropped first."""


@dataclass(frozen=True)
class SampleOutputs:
    """frames: step -> one answer per prompt, in the order of `prompts`."""

    prompts: tuple[PinnedPrompt, ...]
    frames: dict[int, tuple[str, ...]]

    @property
    def steps(self) -> list[int]:
        return sorted(self.frames)

    def previous_step(self, step: int) -> int | None:
        """Return the last evaluated step before `step`, or None."""
        return max((other for other in self.frames if other < step), default=None)

    def correct_since(self, number: int, step: int) -> int | None:
        """Return the first step from which prompt `number` was answered correctly at every evaluation up to `step`."""
        since = None
        for earlier in reversed([other for other in self.steps if other <= step]):
            if not matches_expected(self.frames[earlier][number], self.prompts[number].expected):
                break
            since = earlier
        return since


def matches_expected(answer: str, expected: str | None) -> bool:
    """Return whether both are equal but for outer white space, as the run's exact match counts."""
    return expected is not None and answer.strip() == expected.strip()


class _SampleOutputsReader:
    """Reads one file as it grows. A step that a later attempt repeated shows the later answers."""

    def __init__(self) -> None:
        self.offset = 0
        self.prompts: tuple[PinnedPrompt, ...] = ()
        self.frames: dict[int, tuple[str, ...]] = {}

    def read_new_events(self, path: Path) -> None:
        events, self.offset = read_events(path, self.offset)
        for event in events:
            self._add_event(event)

    def _add_event(self, event: Event) -> None:
        if event["kind"] == "pinned" and isinstance(event.get("pins"), list):
            self.prompts = tuple(map(_read_pin, event["pins"]))
        elif event["kind"] == "answers" and is_finite_number(event.get("step")):
            texts = event.get("texts")
            if isinstance(texts, list) and len(texts) == len(self.prompts):
                self.frames[int(event["step"])] = tuple(map(str, texts))


def _read_pin(pin: object) -> PinnedPrompt:
    """Return a pin as the log has it; a damaged one is an empty prompt, which keeps the others in their places."""
    prompt, expected = (pin.get("prompt"), pin.get("expected")) if isinstance(pin, dict) else (None, None)
    return PinnedPrompt(prompt if isinstance(prompt, str) else "", expected if isinstance(expected, str) else None)


_readers: OrderedDict[Path, _SampleOutputsReader] = OrderedDict()
_readers_lock = threading.Lock()


def read_sample_outputs(path: Path) -> SampleOutputs:
    """Return the sample outputs recorded so far. Reads only what was appended since the last call."""
    with _readers_lock:
        reader = _readers.get(path)
        # a file that became shorter had a torn last line, which the next attempt cut off: read it again from the start
        if reader is None or (path.exists() and path.stat().st_size < reader.offset):
            reader = _readers[path] = _SampleOutputsReader()
        _readers.move_to_end(path)
        while len(_readers) > MAX_CACHED_READERS:
            _readers.popitem(last=False)
        reader.read_new_events(path)
        return SampleOutputs(reader.prompts, dict(reader.frames))
