"""Encoding the shared prefix once gives the ids of two encodings, for all kinds of tokenizers that models have."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import CHAT_TEMPLATE, TEXT
from toolkit.data.examples.templates import Example

pytestmark = pytest.mark.worker

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKNOWN = r"\w+ ?|\W"
ODD = [
    "", " ", "  ", "a", "th", "e quick", " \n", "\n\n", "it's", "'s ok", "a 12", "345 b", "é", "e\u0301", "\u0301x",
    "東京", "🦊", "👩\u200d👩\u200d👧", "\u200b", "\u00a0", "ﬁ", "<s>", "</s>", "<|im_start|>", "<|im_end|>",
    "<|im_start|>assistant\n", "<mask>", " <mask> ", "<wide>  x", "word", "wordy", "\t", "\r\n", "A B", "x y z",
    "end ", "ok. So", "{a} b",
]  # fmt: skip
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_level(pattern: str | None, **bpe: Any) -> Any:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(**bpe))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, plain]) if split else plain
    return tokenizer


def qwen() -> Any:
    from tokenizers import normalizers

    tokenizer = byte_level(LLAMA_3.replace("{1,3}", ""))
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def sentences(scheme: str) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(unk_token="<pad>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return tokenizer


def uncased() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(unk_token="<pad>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


KINDS: dict[str, tuple[Callable[[], Any], bool]] = {
    "gpt-2": (lambda: byte_level(None), True),
    "llama-3": (lambda: byte_level(LLAMA_3, ignore_merges=True), True),
    "qwen": (qwen, True),
    "unknown pattern": (lambda: byte_level(UNKNOWN), False),
    "metaspace first": (lambda: sentences("first"), False),
    "metaspace always": (lambda: sentences("always"), False),
    "uncased": (uncased, False),
}
"""Name to (a tokenizer to train, whether it is known to split between words)."""
_MADE: dict[str, Any] = {}


def made(kind: str) -> Any:
    """Return a tokenizer of this kind with unusual added tokens, a BOS and a chat template."""
    if kind in _MADE:
        return _MADE[kind]
    from tokenizers import AddedToken, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = KINDS[kind][0]()
    texts = [*TEXT, "the theory of everything is there", "  two  spaces   three", "it's 12 345 words\n\n"] * 4
    options: dict[str, Any] = {"vocab_size": 380, "special_tokens": SPECIAL}
    if kind == "uncased":
        trainer: Any = trainers.WordPieceTrainer(**options)
    else:
        alphabet = [] if kind.startswith("meta") else pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.add_tokens([AddedToken("<wide>", rstrip=True, normalized=True), AddedToken("wordy", single_word=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "chat_template": CHAT_TEMPLATE}
    _MADE[kind] = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    return _MADE[kind]


def twice(tokenizer: Any, begins: list[str], fulls: list[str], special: bool) -> list[tuple[list[int], list[int]]]:
    from toolkit.worker.tokens.encode import encode_texts

    return list(
        zip(*(encode_texts(tokenizer, texts, add_special_tokens=special) for texts in (begins, fulls)), strict=True)
    )


def pieces(dice: random.Random) -> str:
    return "".join(dice.choices([*ODD, *TEXT], k=dice.randint(0, 6)))


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_one_pass_gives_the_ids_of_two_passes(kind: str, special: bool) -> None:
    from toolkit.worker.tokens.shared_prefix import encode_pairs

    tokenizer, dice = made(kind), random.Random(kind)
    begins = [*ODD, *(pieces(dice) for _ in range(1500))]
    fulls = [begin + pieces(dice) + "</s>" for begin in begins]
    fulls[10:20] = [pieces(dice) for _ in range(10)]  # a template may write the prompt differently in the whole
    assert encode_pairs(tokenizer, begins, fulls, add_special_tokens=special) == twice(
        tokenizer, begins, fulls, special
    )
    marked = [f"<|im_start|>user\n{begin}<|im_end|>\n<|im_start|>assistant\n" for begin in begins]
    fulls = [begin + pieces(dice) + "<|im_end|>\n" for begin in marked]
    assert encode_pairs(tokenizer, marked, fulls, add_special_tokens=special) == twice(
        tokenizer, marked, fulls, special
    )


TEXTS = st.text(st.one_of(st.sampled_from("ab Z'1\n\u0301\u00a0\t<>|"), st.characters(codec="utf-8")), max_size=30)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS, st.sampled_from(ODD)), min_size=1, max_size=6), chat=st.booleans())
def test_any_text_gives_the_ids_of_two_passes(kind: str, rows: list[tuple[str, str, str]], chat: bool) -> None:
    from toolkit.worker.tokens.shared_prefix import encode_pairs

    tokenizer = made(kind)
    begins = [odd + begin for begin, _, odd in rows]
    if chat:
        begins = [f"<|im_start|>user\n{begin}<|im_end|>\n<|im_start|>assistant\n" for begin in begins]
    fulls = [begin + rest for begin, (_, rest, _) in zip(begins, rows, strict=True)]
    assert encode_pairs(tokenizer, begins, fulls, add_special_tokens=not chat) == twice(
        tokenizer, begins, fulls, not chat
    )


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_cut_where_it_is_safe(kind: str) -> None:
    """Texts are cut where that is safe; otherwise the tests above would compare a function with itself."""
    from toolkit.worker.tokens.shared_prefix import _find_cut_rule

    tokenizer = made(kind)
    chat = _find_cut_rule(tokenizer, "<|im_start|>user\nthe fox<|im_end|>\n<|im_start|>assistant\n", False)
    assert chat is not None and chat.mark == "<|im_start|>"
    words = _find_cut_rule(tokenizer, "the quick fox", True)
    assert (words is not None) == KINDS[kind][1]
    if words is not None:
        assert words.find_cut("the quick brown\nfox: 12 é") == len("the quick")
        assert words.before == [tokenizer.bos_token_id] and words.after == []
        assert words.find_cut("nowhere") == words.find_cut("") == words.find_cut("7 8 9 ") == 0


def test_an_added_token_across_words_prevents_the_cut() -> None:
    from tokenizers import AddedToken

    from toolkit.worker.tokens.shared_prefix import _find_cut_rule

    tokenizer = made("gpt-2")
    for token in (AddedToken("a b"), AddedToken("ab", lstrip=True), AddedToken("ab", rstrip=True)):
        other = type(tokenizer)(
            tokenizer_object=type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str()),
            bos_token="<s>",
            eos_token="</s>",
        )
        other.backend_tokenizer.add_tokens([token])
        assert _find_cut_rule(other, "the quick fox", True) is None


@pytest.mark.parametrize("chat", [True, False])
def test_a_merged_boundary_is_detected(chat: bool) -> None:
    """The ids of the prompt alone are those that the model gets in use, although the text is encoded once."""
    from toolkit.worker.tokens.encode import encode_texts
    from toolkit.worker.tokens.examples import tokenize_examples

    tokenizer = made("llama-3")
    tokenizer.chat_template = CHAT_TEMPLATE.replace("assistant\n", "assistant")  # open: an answer may merge with it
    rows = [
        Example("see th", "e quick fox"),
        Example("see the", " quick fox"),
        Example("ends  ", " so"),
        Example("", "x"),
    ]
    found = tokenize_examples(rows, tokenizer, chat)
    for row, each in zip(rows, found, strict=True):
        alone = row.prompt if not chat else f"<|im_start|>user\n{row.prompt}<|im_end|>\n<|im_start|>assistant"
        assert each.prompt == encode_texts(tokenizer, [alone], add_special_tokens=not chat)[0]
    assert chat or [each.merged_at_boundary for each in found[:2]] == [True, False]
