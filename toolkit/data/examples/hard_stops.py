"""Hard stops: what may not stand in training data unless a person has looked at it and says that it is meant.

Each has a name that settings, files and the command line share. Words and records alone: `worker/tokens/hard_stop_search.py` finds them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.errors import Problem

SHOWN = 100
"""Most row numbers that one carries."""


@dataclass(frozen=True)
class Kind:
    """title: a few words. path: the setting under which it is shown. judgement: whether it may be accepted as meant."""

    title: str
    path: str
    judgement: bool = True


_LENGTH, _PROMPT, _CHAT = "training.sft_args.max_seq_length", "data.prompt", "data.use_chat_template"
KINDS: dict[str, Kind] = {
    "prompt_too_long": Kind("The prompt alone is too long", _LENGTH),
    "nothing_trained": Kind("Nothing in a row is learned", _LENGTH),
    "double_bos": Kind("Two beginnings", _PROMPT),
    "end_untrained": Kind("The end is not learned", _LENGTH),
    "pad_hides_end": Kind("Padding hides the end", "model.hf_model_ckpt", judgement=False),
    "placeholder": Kind("A placeholder was not filled", _PROMPT),
    "mask_wrong": Kind(
        "The loss mask contradicts its switch", "training.sft_args.completion_only_loss", judgement=False
    ),
    "boundary_merged": Kind("A token spans prompt and completion", _PROMPT),
    "template_twice": Kind("The chat template is applied twice", _CHAT),
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
        return KINDS[self.kind].judgement

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Fault:
        """From JSON; raises KeyError or TypeError for another version's."""
        fault = cls(**{**body, "rows": tuple(body["rows"])})
        KINDS[fault.kind]
        return fault


def blocking(faults: Iterable[Fault], accepted: Collection[str]) -> list[Fault]:
    """Those that keep a run from starting."""
    return [fault for fault in faults if not (fault.judgement and fault.kind in accepted)]


def as_problem(fault: Fault, accepted: Collection[str]) -> Problem:
    """An error under its setting, or a warning once it is accepted."""
    kind = KINDS[fault.kind]
    if fault.judgement and fault.kind in accepted:
        return Problem(kind.path, f"{fault.message} You have accepted this.", severity="warning")
    meant = " If it is meant, accept it on the Data page." if fault.judgement else ""
    return Problem(kind.path, fault.message, fault.hint + meant)
