"""Conversations between people: which of the speakers gives the answers is the user's choice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from toolkit.data.conversations import is_blank_cell
from toolkit.data.read_options import Offer, ReadOptions, shorten_preview
from toolkit.data.table import TableRow
from toolkit.data.threads.message_threads import join_threads
from toolkit.data.threads.thread_columns import ThreadColumns

MAX_OFFERED = 4
"""Speakers of whom a user can choose one."""
_SPEAKER_KEYS = ("speaker", "from", "sender", "author", "role", "name", "user", "actor")
_TEXT_KEYS = ("text", "content", "utterance", "message", "value", "body", "line", "sentence")


def find_dialogue_column(columns: Sequence[str], rows: Sequence[TableRow]) -> tuple[str, list[str]] | None:
    """Return (column, speakers) of conversations that name their speakers, the most frequent speaker first."""
    for column in columns:
        cells = [cell for row in rows if not is_blank_cell(cell := row.get(column))]
        listed = [_said(cell) for cell in cells]
        if cells and all(listed):
            counts = Counter(speaker for said in listed for speaker, _ in said)
            if len(counts) > 1:
                return column, [speaker for speaker, _ in counts.most_common(MAX_OFFERED)]
    return None


def read_dialogue(cell: str | None, answered_by: str) -> list[dict[str, Any]]:
    """Return the turns of a conversation: what this speaker says are the answers."""
    return make_turns(_said(cell), answered_by)


def _said(cell: str | None) -> list[tuple[str, str]]:
    """Return (speaker, text) of each message of a cell, or [] for another cell."""
    if cell is None or cell.lstrip()[:1] != "[":
        return []
    try:
        messages = json.loads(cell)
    except (ValueError, RecursionError):
        return []
    found = []
    for each in messages if isinstance(messages, list) else ():
        keys = {str(key).casefold(): key for key in each} if isinstance(each, dict) else {}
        speaker = next((each[keys[key]] for key in _SPEAKER_KEYS if key in keys), None)
        text = next((each[keys[key]] for key in _TEXT_KEYS if key in keys), None)
        if not isinstance(speaker, str) or not isinstance(text, str) or not speaker.strip():
            return []
        found.append((speaker.strip(), text))
    return found


def make_turns(said: Iterable[tuple[str, str]], answered_by: str) -> list[dict[str, Any]]:
    """Return the messages from the first question on; texts that one speaker says in a row are one message."""
    turns: list[dict[str, Any]] = []
    before = None
    for speaker, text in said:
        role = "assistant" if speaker == answered_by else "user"
        if not text.strip() or (role == "assistant" and not turns):
            continue
        if turns and (speaker == before or turns[-1]["role"] == role):
            turns[-1]["content"] += "\n" + text
        else:
            turns.append({"role": role, "content": text})
        before = speaker
    return turns


def speaker_offers(
    columns: Sequence[str], rows: Sequence[TableRow], threads: ThreadColumns | None, options: ReadOptions
) -> list[Offer]:
    """Return an offer for each of the most frequent speakers: to learn to answer as this one. rows: a sample."""
    if threads is not None:
        people = threads.persons[:MAX_OFFERED]
        cells = {name: join_threads(replace(threads, answered_by=name), rows)[:1] for name in people}
    elif (found := find_dialogue_column(columns, rows)) is not None:
        first = next(cell for row in rows if not is_blank_cell(cell := row.get(found[0])))
        cells = {name: [json.dumps(read_dialogue(first, name), ensure_ascii=False)] for name in found[1]}
    else:
        return []
    offers = []
    for name, shown in cells.items():
        chosen = replace(options, answered_by=name, join_messages=threads is not None)
        offers.append(Offer(f"Learn to answer as {name}", chosen, preview_turns(shown)))
    return offers


def preview_turns(cells: Sequence[str]) -> tuple[str, ...]:
    """Return the first lines of conversations as people read them: "user: Where is the lamp?"."""
    return shorten_preview(f"{turn['role']}: {turn['content']}" for cell in cells for turn in json.loads(cell))
