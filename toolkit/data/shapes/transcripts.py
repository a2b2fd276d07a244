"""Conversations in one text: turns behind the names of their speakers, or between the marks of a chat template."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from toolkit.data.chat_messages import ROLES

_SPEAKERS = (
    "human|user|assistant|chatgpt|gpt|chatbot|bot|ai|system|prompter|function response|tool|"
    "customer|client|visitor|agent|support|operator|representative"
)
_NAMED = re.compile(
    rf"(?:(?:\A|\n)[ \t]*(?:\*\*|\[)?|#{{2,4}}[ \t]*)({_SPEAKERS})(?:\*\*|\])?[ \t]*:(?:\*\*)?", re.IGNORECASE
)
_MARKED = (
    re.compile(r"<\|im_start\|>\s*(\w+)[ \t]*\n?"),
    re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
    re.compile(r"<start_of_turn>(\w+)[ \t]*\n?"),
    re.compile(r"<\|(system|user|assistant|tool)\|>"),
)
_ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "</s>", "<end_of_turn>")
_STARTS = re.compile(r"\A\s*(<s>|<bos>|<\|begin_of_text\|>)?\s*")
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_ALPACA = re.compile(r"###[ \t]*(Instruction|Input|Response|Output):")
MIN_TURNS = 2


def read_transcript(text: str) -> list[dict[str, Any]] | None:
    """Return the messages of a text that is a transcript from its start to its end; None for any other text.

    The last message may be empty: it is the answer that another column holds.
    """
    if not any(mark in text for mark in (":", "|>", "[/INST]", "<start_of_turn>")):
        return None
    if (found := _read_instructed(text)) is not None:
        return found
    for pattern in (*_MARKED, _NAMED):
        if (found := _split_at(pattern, text)) is not None:
            return found
    return _read_alpaca(text)


def _read_alpaca(text: str) -> list[dict[str, Any]] | None:
    """Return the messages of a text with an instruction, perhaps an input, and a response."""
    marks = [*islice(_ALPACA.finditer(text), 3)]
    if len(marks) < MIN_TURNS or marks[0].group(1) != "Instruction":
        return None
    first, *marks = marks
    if marks[0].group(1) == "Input" and len(marks) == 2:
        asked = [text[first.end() : marks[0].start()], text[marks[0].end() : marks[1].start()]]
    else:
        asked, marks = [text[first.end() : marks[0].start()]], marks[:1]
    if marks[-1].group(1) not in ("Response", "Output"):
        return None
    prompt = "\n\n".join(part.strip() for part in asked if part.strip())
    answer = _trim(text[marks[-1].end() :])
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _split_at(pattern: re.Pattern[str], text: str) -> list[dict[str, Any]] | None:
    marks = list(pattern.finditer(text))
    if len(marks) < MIN_TURNS or _STARTS.sub("", text[: marks[0].start()]):
        return None
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    names = ["_".join(mark.group(1).casefold().split()) for mark in marks]
    if any(name not in ROLES for name in names):
        return None
    turns = [
        {"role": ROLES[name], "content": _trim(text[mark.end() : end])}
        for name, mark, end in zip(names, marks, ends, strict=True)
    ]
    roles = [turn["role"] for turn in turns]
    is_dialogue = {"user", "assistant"} <= set(roles) and roles[0] in ("user", "system")
    return turns if is_dialogue and all(turn["content"] for turn in turns[:-1]) else None


def _read_instructed(text: str) -> list[dict[str, Any]] | None:
    """Return the messages of a text with the marks of Llama 2 and Mistral."""
    before, *parts = text.split("[INST]")
    if not parts or _STARTS.sub("", before) or not all("[/INST]" in part for part in parts):
        return None
    turns: list[dict[str, Any]] = []
    for part in parts:
        asked, _, rest = part.partition("[/INST]")
        said = rest.partition("<s>")[0]
        system = _SYSTEM.match(asked) if not turns else None
        turns += [{"role": "system", "content": system.group(1).strip()}] if system else []
        turns.append({"role": "user", "content": (asked[system.end() :] if system else asked).strip()})
        turns.append({"role": "assistant", "content": _trim(said)})
    return turns


def _trim(text: str) -> str:
    """Return a text without spaces around it and without the marks at its end."""
    end = len(text)
    while True:  # by index: a cell may end with very many marks
        while end and text[end - 1].isspace():
            end -= 1
        mark = next((mark for mark in _ENDS if text.endswith(mark, 0, end)), None)
        if mark is None:
            return text[:end].lstrip()
        end -= len(mark)
