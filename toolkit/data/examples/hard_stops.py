"""Blocking problems of tokenized training data, called hard stops in code: their names, titles and records.

`worker/tokens/hard_stop_search.py` finds them. A run does not start until they are fixed, or accepted where that is
possible. The names are part of settings, files and the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.data.chat_repairs import ChatRepair
from toolkit.errors import Problem

MAX_HARD_STOP_ROWS = 100
"""Row numbers that a blocking problem lists; of more it gives the count."""


@dataclass(frozen=True)
class HardStop:
    """title: a few words; path: the setting under which it is shown; can_be_accepted: by the user, as intended."""

    title: str
    path: str
    can_be_accepted: bool = True


_LENGTH, _PROMPT, _CHAT = "training.sft_args.max_seq_length", "data.prompt", "data.use_chat_template"
_MESSAGES, _MODEL = "data.messages", "model.hf_model_ckpt"
HARD_STOPS: dict[str, HardStop] = {
    "prompt_too_long": HardStop("The prompt alone exceeds the max sequence length", _LENGTH),
    "nothing_trained": HardStop("A row has no trained token", _LENGTH),
    "double_bos": HardStop("Two beginning-of-sequence tokens", _PROMPT),
    "end_untrained": HardStop("The end-of-sequence token is not trained", _LENGTH),
    "pad_hides_end": HardStop("Padding masks the end-of-sequence token", "model.hf_model_ckpt", can_be_accepted=False),
    "text_dropped": HardStop("The chat template drops the text", "model.hf_model_ckpt", can_be_accepted=False),
    "unknown_id": HardStop("A token has no embedding", "model.hf_model_ckpt", can_be_accepted=False),
    "placeholder": HardStop("A placeholder was not filled", _PROMPT),
    "mask_wrong": HardStop(
        "The loss mask contradicts its setting", "training.sft_args.completion_only_loss", can_be_accepted=False
    ),
    "boundary_merged": HardStop("A token spans prompt and completion", _PROMPT),
    "template_twice": HardStop("The chat template is applied twice", _CHAT),
    "template_rejects": HardStop("The chat template rejects conversations", _MESSAGES, can_be_accepted=False),
    "tools_unwritten": HardStop("The chat template writes no list of tools", _MODEL),
    "calls_unwritten": HardStop("The chat template writes no tool calls", _MODEL),
    "results_unwritten": HardStop("The chat template writes no tool results", _MODEL),
    "reasoning_unwritten": HardStop("The chat template writes no reasoning", _MODEL),
    "text_unwritten": HardStop("The chat template leaves out messages", _MODEL),
}


@dataclass(frozen=True)
class Fault:
    """A blocking problem that was found. kind: a key of HARD_STOPS; count: number of rows concerned.

    rows: the first of these rows, 0-based in the table, ascending; all of them for conversations that the template
    rejects. repairs: (repair, number of these rows that the template accepts after it), of `data/chat_repairs.py`.
    """

    kind: str
    message: str
    hint: str
    count: int
    rows: tuple[int, ...] = ()
    repairs: tuple[tuple[ChatRepair, int], ...] = ()

    @property
    def can_be_accepted(self) -> bool:
        return HARD_STOPS[self.kind].can_be_accepted

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> Fault:
        """Return the fault of a JSON object. Raises KeyError or TypeError if another version wrote it."""
        repairs = tuple((repair, int(count)) for repair, count in body.get("repairs", ()))
        fault = cls(**{**body, "rows": tuple(body["rows"]), "repairs": repairs})
        if fault.kind not in HARD_STOPS:
            raise KeyError(fault.kind)
        return fault


def select_blocking(faults: Iterable[Fault], accepted: Collection[str]) -> list[Fault]:
    """Return the faults that keep a run from starting."""
    return [fault for fault in faults if not (fault.can_be_accepted and fault.kind in accepted)]


def hard_stop_problem(fault: Fault, accepted: Collection[str]) -> Problem:
    """Return an error under the fault's setting, or a warning once it is accepted."""
    kind = HARD_STOPS[fault.kind]
    if fault.can_be_accepted and fault.kind in accepted:
        return Problem(kind.path, f"{fault.message} You have accepted this.", severity="warning")
    accept_hint = " If it is intended, accept it on the Data page." if fault.can_be_accepted else ""
    return Problem(kind.path, fault.message, fault.hint + accept_hint)
