"""Prompt and whole text, tokenised in one pass: what the two share is encoded once.

The ids are those of two separate encodings. A text is cut only where both sides are tokenised independently of each
other: right behind an added token such as a chat template's marks, which a tokenizer takes out of a text before all
else, or between two words where the tokenizer is known to part words there. A row without such a place is encoded
twice. Knows no example and no label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from toolkit.worker.tokens.encode import backend_of, encode, one_bos

LOOKED_AT = 200
"""Characters before a prompt's end in which a place between words is looked for: most rows have one there."""
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_WHOLE_WORDS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[\p{L}\p{M}]+|\p{N}|\n|[^\p{L}\p{M}\p{N}\n]+",
)
"""Patterns of GPT-2, Llama 3, Qwen 2 and 3, GPT-4o, and the demo model. In each a piece that holds a letter and then
meets a space ends before it, whatever follows, and nothing looks back: a text may be cut between "a" and " b"."""
_AROUND_ALONE = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel")

Ids = list[int]


@dataclass(frozen=True)
class Seam:
    """How texts of one tokenizer are cut. mark: the added token behind which to cut, "" for between words; mark_id: its
    id; before, after: what the tokenizer puts around a whole text."""

    mark: str
    mark_id: int
    before: Ids
    after: Ids

    def place(self, text: str) -> int:
        """Where to cut the text, or 0: nowhere."""
        if self.mark:
            return text.rfind(self.mark) + len(self.mark) if self.mark in text else 0
        at, earliest = len(text) - 1, max(1, len(text) - LOOKED_AT)
        while (at := text.rfind(" ", earliest, at)) > 0:
            if text[at - 1] in _LETTERS and text[at + 1] in _LETTERS:
                return at
        return 0

    def ends_left(self, ids: Ids) -> bool:
        """Whether the tokenizer saw the mark where the text was cut."""
        return not self.mark or ids[-1:] == [self.mark_id]

    def begins_right(self, ids: Ids) -> bool:
        return not self.mark or ids[:1] == [self.mark_id]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, begins: Sequence[str], fulls: Sequence[str], *, special: bool
) -> list[tuple[Ids, Ids]]:
    """(ids of the beginning, ids of the whole text) for each pair of texts, equal to what `encode` gives for either."""
    seam = _seam(tokenizer, begins[0], special) if tokenizer.is_fast and begins else None
    cuts = [seam.place(b) if seam and f.startswith(b) else 0 for b, f in zip(begins, fulls, strict=True)]
    found = dict(_joined(tokenizer, seam, begins, fulls, cuts)) if seam else {}
    rest = [at for at in range(len(begins)) if at not in found]
    if rest:
        both = encode(tokenizer, [begins[at] for at in rest] + [fulls[at] for at in rest], special=special)
        found |= zip(rest, zip(both[: len(rest)], both[len(rest) :], strict=True), strict=True)
    return [found[at] for at in range(len(begins))]


def _joined(
    tokenizer: PreTrainedTokenizerBase, seam: Seam, begins: Sequence[str], fulls: Sequence[str], cuts: Sequence[int]
) -> Iterator[tuple[int, tuple[Ids, Ids]]]:
    """(number, its pair of ids) of the texts that could be cut, and that fell apart there as they should."""
    rows = [at for at, cut in enumerate(cuts) if cut]
    tails = {tail: nth for nth, tail in enumerate(dict.fromkeys(begins[at][cuts[at] :] for at in rows))}
    texts = [begins[at][: cuts[at]] for at in rows]
    texts += [seam.mark + fulls[at][cuts[at] :] for at in rows]  # the mark again: what follows is no text's beginning
    texts += [seam.mark + tail for tail in tails]
    ids = [item.ids for item in backend_of(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]
    skip = 1 if seam.mark else 0
    bos = tokenizer.bos_token_id
    for nth, at in enumerate(rows):
        left, right, tail = ids[nth], ids[len(rows) + nth], ids[2 * len(rows) + tails[begins[at][cuts[at] :]]]
        if seam.ends_left(left) and seam.begins_right(right) and seam.begins_right(tail):
            pair = (seam.before + left + part[skip:] + seam.after for part in (tail, right))
            begin, full = (one_bos(part, bos) for part in pair)
            yield at, (begin, full)


def _seam(tokenizer: PreTrainedTokenizerBase, begin: str, special: bool) -> Seam | None:
    """How to cut the texts of which `begin` is one beginning; None when nothing is known to be safe."""
    backend = backend_of(tokenizer)
    around: tuple[Ids, Ids] | None = _around(backend) if special else ([], [])
    if around is None:
        return None
    added = backend.get_added_tokens_decoder()
    marks = [(begin.rfind(token.content), number) for number, token in added.items() if _parts(token, added.values())]
    at, number = max(marks, default=(-1, 0))
    words = _between_words(backend) and all(map(_within_words, added.values()))
    if words and (special or at < 0):  # a plain text holds a mark by chance
        return Seam("", 0, *around)
    return Seam(added[number].content, number, *around) if at >= 0 else None


def _parts(token: Any, others: Any) -> bool:
    """Whether a text always falls apart at this added token: found as it is written, whatever stands around it."""
    plain = token.content and not token.normalized and not token.single_word
    return plain and not any(token.content in other.content for other in others if other.content != token.content)


def _within_words(token: Any) -> bool:
    """Whether this added token can't reach across a place between two words."""
    text = token.content
    reaches = (token.lstrip and text[:1] in _LETTERS) or (token.rstrip and text[-1:] in _LETTERS)
    return " " not in text and not reaches


def _between_words(backend: Any) -> bool:
    """Whether the tokenizer is known to cut between a letter and a space that a letter follows."""
    normalizer, parts = _state(backend.normalizer), _state(backend.pre_tokenizer)
    if normalizer.get("type") not in (None, "NFC"):
        return False
    steps = parts.get("pretokenizers", [parts])
    return all(map(_by_letter, steps)) and any(map(_by_word, steps))


def _by_letter(step: dict[str, Any]) -> bool:
    return _by_word(step) or step.get("type") == "Digits" or _bytes_alone(step)


def _by_word(step: dict[str, Any]) -> bool:
    if step.get("type") == "Split":
        known = step["pattern"].get("Regex") in _WHOLE_WORDS
        return known and step["behavior"] == "Isolated" and not step["invert"]
    return _bytes_alone(step) and bool(step.get("use_regex", True))


def _bytes_alone(step: dict[str, Any]) -> bool:
    return step.get("type") == "ByteLevel" and not step["add_prefix_space"]


def _around(backend: Any) -> tuple[Ids, Ids] | None:
    """What the tokenizer puts before and behind every text; None when that can't be told."""
    state = _state(backend.post_processor)
    steps = state.get("processors", [state])
    if not all(step.get("type") in (None, *_AROUND_ALONE) for step in steps):
        return None
    bare, whole = (backend.encode_batch_fast(["x"], add_special_tokens=special)[0].ids for special in (False, True))
    fits = [at for at in range(len(whole) - len(bare) + 1) if bare and whole[at : at + len(bare)] == bare]
    return (whole[: fits[0]], whole[fits[0] + len(bare) :]) if len(fits) == 1 else None


def _state(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__()) if part is not None else {}
