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

from toolkit.worker.tokens.encode import encode_texts, remove_double_bos, unpadded_backend

CUT_SEARCH_CHARACTERS = 200
"""Characters before a prompt's end in which a place between words is looked for: most rows have one there."""
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_WORD_PATTERNS = (
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
_SAFE_POST_PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel")

TokenIds = list[int]


@dataclass(frozen=True)
class CutRule:
    """How texts of one tokenizer are cut. mark: the added token behind which to cut, "" for between words; mark_id: its
    id; before, after: what the tokenizer puts around a whole text."""

    mark: str
    mark_id: int
    before: TokenIds
    after: TokenIds

    def place(self, text: str) -> int:
        """Where to cut the text, or 0: nowhere."""
        if self.mark:
            return text.rfind(self.mark) + len(self.mark) if self.mark in text else 0
        at, earliest = len(text) - 1, max(1, len(text) - CUT_SEARCH_CHARACTERS)
        while (at := text.rfind(" ", earliest, at)) > 0:
            if text[at - 1] in _LETTERS and text[at + 1] in _LETTERS:
                return at
        return 0

    def left_ends_with_mark(self, ids: TokenIds) -> bool:
        """Whether the tokenizer saw the mark where the text was cut."""
        return not self.mark or ids[-1:] == [self.mark_id]

    def right_begins_with_mark(self, ids: TokenIds) -> bool:
        return not self.mark or ids[:1] == [self.mark_id]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, begins: Sequence[str], fulls: Sequence[str], *, special: bool
) -> list[tuple[TokenIds, TokenIds]]:
    """(ids of the beginning, ids of the whole text) for each pair of texts, equal to what `encode` gives for either."""
    seam = _find_cut_rule(tokenizer, begins[0], special) if tokenizer.is_fast and begins else None
    cuts = [seam.place(b) if seam and f.startswith(b) else 0 for b, f in zip(begins, fulls, strict=True)]
    found = dict(_encode_cut_texts(tokenizer, seam, begins, fulls, cuts)) if seam else {}
    rest = [at for at in range(len(begins)) if at not in found]
    if rest:
        both = encode_texts(tokenizer, [begins[at] for at in rest] + [fulls[at] for at in rest], special=special)
        found |= zip(rest, zip(both[: len(rest)], both[len(rest) :], strict=True), strict=True)
    return [found[at] for at in range(len(begins))]


def _encode_cut_texts(
    tokenizer: PreTrainedTokenizerBase, seam: CutRule, begins: Sequence[str], fulls: Sequence[str], cuts: Sequence[int]
) -> Iterator[tuple[int, tuple[TokenIds, TokenIds]]]:
    """(number, its pair of ids) of the texts that could be cut, and that fell apart there as they should."""
    rows = [at for at, cut in enumerate(cuts) if cut]
    tails = {tail: nth for nth, tail in enumerate(dict.fromkeys(begins[at][cuts[at] :] for at in rows))}
    texts = [begins[at][: cuts[at]] for at in rows]
    texts += [seam.mark + fulls[at][cuts[at] :] for at in rows]  # the mark again: what follows is no text's beginning
    texts += [seam.mark + tail for tail in tails]
    ids = [item.ids for item in unpadded_backend(tokenizer).encode_batch_fast(texts, add_special_tokens=False)]
    skip = 1 if seam.mark else 0
    bos = tokenizer.bos_token_id
    for nth, at in enumerate(rows):
        left, right, tail = ids[nth], ids[len(rows) + nth], ids[2 * len(rows) + tails[begins[at][cuts[at] :]]]
        if seam.left_ends_with_mark(left) and seam.right_begins_with_mark(right) and seam.right_begins_with_mark(tail):
            pair = (seam.before + left + part[skip:] + seam.after for part in (tail, right))
            begin, full = (remove_double_bos(part, bos) for part in pair)
            yield at, (begin, full)


def _find_cut_rule(tokenizer: PreTrainedTokenizerBase, begin: str, special: bool) -> CutRule | None:
    """How to cut the texts of which `begin` is one beginning; None when nothing is known to be safe."""
    backend = unpadded_backend(tokenizer)
    around: tuple[TokenIds, TokenIds] | None = _tokens_around_text(backend) if special else ([], [])
    if around is None:
        return None
    added = backend.get_added_tokens_decoder()
    marks = [
        (begin.rfind(token.content), number) for number, token in added.items() if _always_splits(token, added.values())
    ]
    at, number = max(marks, default=(-1, 0))
    words = _splits_between_words(backend) and all(map(_stays_within_words, added.values()))
    if words and (special or at < 0):  # a plain text holds a mark by chance
        return CutRule("", 0, *around)
    return CutRule(added[number].content, number, *around) if at >= 0 else None


def _always_splits(token: Any, others: Any) -> bool:
    """Whether a text always falls apart at this added token: found as it is written, whatever stands around it."""
    plain = token.content and not token.normalized and not token.single_word
    return plain and not any(token.content in other.content for other in others if other.content != token.content)


def _stays_within_words(token: Any) -> bool:
    """Whether this added token can't reach across a place between two words."""
    text = token.content
    reaches = (token.lstrip and text[:1] in _LETTERS) or (token.rstrip and text[-1:] in _LETTERS)
    return " " not in text and not reaches


def _splits_between_words(backend: Any) -> bool:
    """Whether the tokenizer is known to cut between a letter and a space that a letter follows."""
    normalizer, parts = _component_state(backend.normalizer), _component_state(backend.pre_tokenizer)
    if normalizer.get("type") not in (None, "NFC"):
        return False
    steps = parts.get("pretokenizers", [parts])
    return all(map(_keeps_word_boundaries, steps)) and any(map(_splits_words, steps))


def _keeps_word_boundaries(step: dict[str, Any]) -> bool:
    return _splits_words(step) or step.get("type") == "Digits" or _is_plain_byte_level(step)


def _splits_words(step: dict[str, Any]) -> bool:
    if step.get("type") == "Split":
        known = step["pattern"].get("Regex") in _WORD_PATTERNS
        return known and step["behavior"] == "Isolated" and not step["invert"]
    return _is_plain_byte_level(step) and bool(step.get("use_regex", True))


def _is_plain_byte_level(step: dict[str, Any]) -> bool:
    return step.get("type") == "ByteLevel" and not step["add_prefix_space"]


def _tokens_around_text(backend: Any) -> tuple[TokenIds, TokenIds] | None:
    """What the tokenizer puts before and behind every text; None when that can't be told."""
    state = _component_state(backend.post_processor)
    steps = state.get("processors", [state])
    if not all(step.get("type") in (None, *_SAFE_POST_PROCESSORS) for step in steps):
        return None
    bare, whole = (backend.encode_batch_fast(["x"], add_special_tokens=special)[0].ids for special in (False, True))
    fits = [at for at in range(len(whole) - len(bare) + 1) if bare and whole[at : at + len(bare)] == bare]
    return (whole[: fits[0]], whole[fits[0] + len(bare) :]) if len(fits) == 1 else None


def _component_state(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__()) if part is not None else {}
