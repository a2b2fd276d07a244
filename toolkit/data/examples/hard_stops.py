"""Hard stops: what may not stand in training data unless a person has looked at it and says that it is meant.

Each has a name that settings, files and the command line share. Words and records alone: `worker/tokens/hard_stop_search.py` finds them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.errors import Problem

MAX_HARD_STOP_ROWS = 100
"""Most row numbers that one carries."""


@dataclass(frozen=True)
class HardStop:
    """title: a few words. path: the setting under which it is shown. judgement: whether it may be accepted as meant."""

    title: str
    path: str
    judgement: bool = True


_LENGTH, _PROMPT, _CHAT = "training.sft_args.max_seq_length", "data.prompt", "data.use_chat_template"
HARD_STOPS: dict[str, HardStop] = {
    "prompt_too_long": HardStop("The prompt alone is too long", _LENGTH),
    "nothing_trained": HardStop("Nothing in a row is learned", _LENGTH),
    "double_bos": HardStop("Two beginnings", _PROMPT),
    "end_untrained": HardStop("The end is not learned", _LENGTH),
    "pad_hides_end": HardStop("Padding hides the end", "model.hf_model_ckpt", judgement=False),
    "placeholder": HardStop("A placeholder was not filled", _PROMPT),
    "mask_wrong": HardStop(
        "The loss mask contradicts its switch", "training.sft_args.completion_only_loss", judgement=False
    ),
    "boundary_merged": HardStop("A token spans prompt and completion", _PROMPT),
    "template_twice": HardStop("The chat template is applied twice", _CHAT),
}


@dataclass(frozen=True)
class Fault:
    """kind: a key of KINDS. count: rows concerned; rows: the first of them, 0-based in the table, ascending."""

    kind: str
    message: str
    hint: str
    count: int
    rows: tuple[int, ...] = ()

    @property
    def judgement(self) -> bool:
        return HARD_STOPS[self.kind].judgement

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Fault:
        """From JSON; raises KeyError or TypeError for another version's."""
        fault = cls(**{**body, "rows": tuple(body["rows"])})
        HARD_STOPS[fault.kind]
        return fault


def select_blocking(faults: Iterable[Fault], accepted: Collection[str]) -> list[Fault]:
    """Those that keep a run from starting."""
    return [fault for fault in faults if not (fault.judgement and fault.kind in accepted)]


def hard_stop_problem(fault: Fault, accepted: Collection[str]) -> Problem:
    """An error under its setting, or a warning once it is accepted."""
    kind = HARD_STOPS[fault.kind]
    if fault.judgement and fault.kind in accepted:
        return Problem(kind.path, f"{fault.message} You have accepted this.", severity="warning")
    meant = " If it is meant, accept it on the Data page." if fault.judgement else ""
    return Problem(kind.path, fault.message, fault.hint + meant)
