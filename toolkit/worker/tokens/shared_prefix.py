"""Tokenize prompts and full texts together and encode their shared prefix once.

The ids equal those of two separate encodings. A text is cut only where both sides are tokenized independently: right
after an added token, such as a marker of a chat template, which a tokenizer extracts before anything else; or between
two words, if the tokenizer is known to split words there. A row without such a place is encoded twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from toolkit.worker.tokens.encode import encode_texts, remove_double_bos, unpadded_backend

CUT_SEARCH_CHARACTERS = 200
"""Characters at the end of a prompt that are searched for a place between words; most rows have one there."""
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
"""Split patterns of GPT-2, Llama 3, Qwen 2 and 3, GPT-4o, and the demo model. In each of them, a piece with a letter
ends before a following space, and no pattern looks behind, so a text can be cut between "a" and " b"."""
_SAFE_POST_PROCESSORS = ("TemplateProcessing", "BertProcessing", "RobertaProcessing", "ByteLevel")

TokenIds = list[int]


@dataclass(frozen=True)
class CutRule:
    """How texts of one tokenizer are cut.

    mark: the added token after which to cut, or "" to cut between words. mark_id: its id. before, after: the ids that
    the tokenizer adds around a text.
    """

    mark: str
    mark_id: int
    before: TokenIds
    after: TokenIds

    def find_cut(self, text: str) -> int:
        """Return the character offset at which to cut the text, or 0 if there is none."""
        if self.mark:
            return text.rfind(self.mark) + len(self.mark) if self.mark in text else 0
        at, earliest = len(text) - 1, max(1, len(text) - CUT_SEARCH_CHARACTERS)
        while (at := text.rfind(" ", earliest, at)) > 0:
            if text[at - 1] in _LETTERS and text[at + 1] in _LETTERS:
                return at
        return 0

    def left_ends_with_mark(self, ids: TokenIds) -> bool:
        """Return whether the tokenizer recognized the marker at the cut."""
        return not self.mark or ids[-1:] == [self.mark_id]

    def right_begins_with_mark(self, ids: TokenIds) -> bool:
        """Return whether the tokenizer recognized the marker that was put before the right part."""
        return not self.mark or ids[:1] == [self.mark_id]


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], texts: Sequence[str], *, add_special_tokens: bool
) -> list[tuple[TokenIds, TokenIds]]:
    """Return (ids of the prompt, ids of the text) for each pair, equal to what `encode_texts` returns for each."""
    rule = _find_cut_rule(tokenizer, prompts[0], add_special_tokens) if tokenizer.is_fast and prompts else None
    cuts = [rule.find_cut(p) if rule and t.startswith(p) else 0 for p, t in zip(prompts, texts, strict=True)]
    pairs = dict(_encode_cut_texts(tokenizer, rule, prompts, texts, cuts)) if rule else {}
    others = [at for at in range(len(prompts)) if at not in pairs]
    if others:
        uncut = [prompts[at] for at in others] + [texts[at] for at in others]
        both = encode_texts(tokenizer, uncut, add_special_tokens=add_special_tokens)
        pairs |= zip(others, zip(both[: len(others)], both[len(others) :], strict=True), strict=True)
    return [pairs[at] for at in range(len(prompts))]


def _encode_cut_texts(
    tokenizer: PreTrainedTokenizerBase, rule: CutRule, prompts: Sequence[str], texts: Sequence[str], cuts: Sequence[int]
) -> Iterator[tuple[int, tuple[TokenIds, TokenIds]]]:
    """Yield (number, its pair of ids) of the texts that have a cut and whose parts were split there as expected."""
    rows = [at for at, cut in enumerate(cuts) if cut]
    tails = {tail: nth for nth, tail in enumerate(dict.fromkeys(prompts[at][cuts[at] :] for at in rows))}
    parts = [prompts[at][: cuts[at]] for at in rows]
    # a tokenizer may treat the start of a text differently: the marker before the right part prevents that
    parts += [rule.mark + texts[at][cuts[at] :] for at in rows]
    parts += [rule.mark + tail for tail in tails]
    ids = [item.ids for item in unpadded_backend(tokenizer).encode_batch_fast(parts, add_special_tokens=False)]
    skip = 1 if rule.mark else 0
    bos = tokenizer.bos_token_id
    for nth, at in enumerate(rows):
        left, right, tail = ids[nth], ids[len(rows) + nth], ids[2 * len(rows) + tails[prompts[at][cuts[at] :]]]
        if rule.left_ends_with_mark(left) and rule.right_begins_with_mark(right) and rule.right_begins_with_mark(tail):
            pair = (rule.before + left + part[skip:] + rule.after for part in (tail, right))
            prompt_ids, text_ids = (remove_double_bos(part, bos) for part in pair)
            yield at, (prompt_ids, text_ids)


def _find_cut_rule(tokenizer: PreTrainedTokenizerBase, prompt: str, add_special_tokens: bool) -> CutRule | None:
    """Return how to cut texts that look like `prompt`, or None if no way is known to be safe."""
    backend = unpadded_backend(tokenizer)
    around: tuple[TokenIds, TokenIds] | None = _tokens_around_text(backend) if add_special_tokens else ([], [])
    if around is None:
        return None
    added = backend.get_added_tokens_decoder()
    marks = [
        (prompt.rfind(token.content), number)
        for number, token in added.items()
        if _always_splits(token, added.values())
    ]
    at, number = max(marks, default=(-1, 0))
    words = _splits_between_words(backend) and all(map(_stays_within_words, added.values()))
    if words and (add_special_tokens or at < 0):  # a marker in a plain text is a coincidence: other rows may lack it
        return CutRule("", 0, *around)
    return CutRule(added[number].content, number, *around) if at >= 0 else None


def _always_splits(token: Any, others: Any) -> bool:
    """Return whether a text is always split at this added token, independently of the characters around it."""
    plain = token.content and not token.normalized and not token.single_word
    return plain and not any(token.content in other.content for other in others if other.content != token.content)


def _stays_within_words(token: Any) -> bool:
    """Return whether this added token can't extend across the boundary between two words."""
    text = token.content
    reaches = (token.lstrip and text[:1] in _LETTERS) or (token.rstrip and text[-1:] in _LETTERS)
    return " " not in text and not reaches


def _splits_between_words(backend: Any) -> bool:
    """Return whether the tokenizer is known to split between a letter and a space that is followed by a letter."""
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
    """Return the ids that the tokenizer adds before and after every text, or None if they depend on the text."""
    state = _component_state(backend.post_processor)
    steps = state.get("processors", [state])
    if not all(step.get("type") in (None, *_SAFE_POST_PROCESSORS) for step in steps):
        return None
    bare, whole = (backend.encode_batch_fast(["x"], add_special_tokens=special)[0].ids for special in (False, True))
    fits = [at for at in range(len(whole) - len(bare) + 1) if bare and whole[at : at + len(bare)] == bare]
    return (whole[: fits[0]], whole[fits[0] + len(bare) :]) if len(fits) == 1 else None


def _component_state(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__()) if part is not None else {}
