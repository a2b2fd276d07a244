"""Conversations in one text: turns behind the names of their speakers, or between the marks of a chat template."""

from __future__ import annotations

import re
from typing import Any

from toolkit.data.chat_messages import ROLES

_SPEAKERS = "human|user|assistant|chatgpt|gpt|chatbot|bot|ai|system|prompter|function response|tool"
_NAMED = re.compile(
    rf"(?:(?:\A|\n)[ \t]*(?:\*\*|\[)?|#{{2,4}}[ \t]*)({_SPEAKERS})(?:\*\*|\])?[ \t]*:(?:\*\*)?", re.IGNORECASE
)
_MARKED = (
    re.compile(r"<\|im_start\|>\s*(\w+)[ \t]*\n?"),
    re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>"),
    re.compile(r"<start_of_turn>(\w+)[ \t]*\n?"),
    re.compile(r"<\|(system|user|assistant|tool)\|>"),
)
_ENDS = re.compile(r"(\s*(<\|(im_end|eot_id|end|endoftext|end_of_text)\|>|</s>|<end_of_turn>))+\s*\Z")
_STARTS = re.compile(r"\A\s*(<s>|<bos>|<\|begin_of_text\|>)?\s*")
_INSTRUCTED = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=<s>|\[INST\]|\Z)", re.DOTALL)
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_ALPACA = re.compile(
    r"###\s*Instruction:\s*(.*?)\s*(?:###\s*Input:\s*(.*?)\s*)?###\s*(?:Response|Output):(.*)\Z", re.DOTALL
)
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
    alpaca = _ALPACA.search(text)
    if alpaca is None:
        return None
    asked = "\n\n".join(part for part in alpaca.groups()[:2] if part)
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": _trim(alpaca.group(3))}]


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
    parts = _INSTRUCTED.findall(text)
    if not parts or _STARTS.sub("", text[: text.index("[INST]")]):
        return None
    turns: list[dict[str, Any]] = []
    for asked, said in parts:
        system = _SYSTEM.match(asked) if not turns else None
        turns += [{"role": "system", "content": system.group(1).strip()}] if system else []
        turns.append({"role": "user", "content": (asked[system.end() :] if system else asked).strip()})
        turns.append({"role": "assistant", "content": _trim(said)})
    return turns


def _trim(text: str) -> str:
    return _ENDS.sub("", text).strip()
