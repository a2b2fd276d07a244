"""Conversations that the chat template rejects, and the repairs after which it accepts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from toolkit.data.chat_messages import Message
from toolkit.data.chat_repairs import CHAT_REPAIRS, ChatRepair
from toolkit.data.examples.hard_stops import Fault
from toolkit.data.examples.templates import Example
from toolkit.worker.tokens.chat_outline import outline_conversation
from toolkit.worker.tokens.conversation import read_listed_tools, to_message_dicts
from toolkit.worker.tokens.encode import RejectedConversationsError, render_chats


class RejectedRows:
    """Collects the rejected examples of a preparation."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._reasons: dict[int, str] = {}
        self._repaired: dict[ChatRepair, set[int]] = {name: set() for name in CHAT_REPAIRS}
        self._repairs: dict[tuple[Message, ...], list[ChatRepair]] = {}
        self._outline_reasons: dict[tuple[Message, ...], str] = {}

    def add(self, rejected: Mapping[int, tuple[Example, str]]) -> None:
        """Add rejected examples: position -> example and reason."""
        for number, (example, reason) in rejected.items():
            self._reasons[number] = reason
            outline = outline_conversation(example.turns)
            if outline not in self._repairs:
                self._repairs[outline] = [name for name in CHAT_REPAIRS if self._accepts(name, outline)]
            for name in self._repairs[outline]:
                self._repaired[name].add(number)

    def check_outline(self, number: int, example: Example) -> None:
        """Add an example if the template rejects conversations of its outline; faster than tokenizing it."""
        outline = outline_conversation(example.turns)
        if outline not in self._outline_reasons:
            self._outline_reasons[outline] = self._find_reason(outline)
        if reason := self._outline_reasons[outline]:
            self.add({number: (example, reason)})

    def faults(self, rows: Sequence[int] | np.ndarray, total: int) -> list[Fault]:
        """Return the blocking problem, if any. rows: the row number in the table of each example; total: of these."""
        if not self._reasons:
            return []
        at = sorted(self._reasons, key=lambda number: int(rows[number]))
        affected = tuple(int(rows[number]) for number in at)
        message = (
            f"{len(at):,} of {total:,} rows {'is' if len(at) == 1 else 'are'} rejected by the model's chat template. "
            f"Row {affected[0] + 1:,}: {self._reasons[at[0]]}"
        )
        hint = "Remove or repair these rows on the Data page, below the tokens of the row, or choose another model."
        return [Fault("template_rejects", message, hint, len(at), affected, self._useful_repairs())]

    def _useful_repairs(self) -> tuple[tuple[ChatRepair, int], ...]:
        """Return the repairs that help: of two with the same effect the simpler one."""
        found: list[tuple[ChatRepair, int]] = []
        for name, rows in self._repaired.items():
            if rows and rows not in [self._repaired[earlier] for earlier, _ in found]:
                found.append((name, len(rows)))
        return tuple(found)

    def _accepts(self, repair: ChatRepair, outline: Sequence[Message]) -> bool:
        turns = CHAT_REPAIRS[repair][1](outline)
        return bool(turns) and turns != tuple(outline) and not self._find_reason(turns)

    def _find_reason(self, turns: Sequence[Message]) -> str:
        """Return why the template rejects a conversation or the prompt of one of its answers, or ""."""
        parts = [turns, *(turns[:at] for at, turn in enumerate(turns) if turn.learned)]
        try:
            for number, part in enumerate(parts):
                render_chats(
                    self._tokenizer,
                    [to_message_dicts(part)],
                    tools=[read_listed_tools(part)],
                    add_generation_prompt=number > 0,
                )
        except RejectedConversationsError as error:
            return next(iter(error.reasons.values()))
        return ""
