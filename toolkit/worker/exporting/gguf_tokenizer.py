"""A tokenizer in a GGUF file: byte-level BPE, or BPE over spaces with byte fallback as SentencePiece has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolkit.export.prompt_contract import SpecialTokens

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's kinds of tokens."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"{_LETTERS}*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+|{_LETTERS}+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS: dict[str, tuple[tuple[str, Any], ...]] = {
    "gpt-2": (("bytes", True),),
    "smollm": (("digits", True), ("bytes", True)),
    "llama-bpe": (("split", _WORDS + r"|\p{N}{1,3}" + _OTHERS), ("bytes", False)),
    "qwen2": (("split", _WORDS + r"|\p{N}" + _OTHERS), ("bytes", False)),
    "tekken": (("split", _TEKKEN), ("bytes", False)),
}
"""llama.cpp's names of the ways in which byte-level tokenizers split a text, with their steps."""

Fields = dict[str, Any]
_TEMPLATE = "tokenizer.chat_template"


def find_unwritable_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return why the tokenizer can't be written, "" if it can."""
    state = _read_state(tokenizer)
    if state["model"]["type"] != "BPE":
        return f"its tokenizer is of the kind {state['model']['type']}, and only BPE is written"
    if state["model"].get("byte_fallback"):
        return "" if _prefix_of(state) is not None else "its tokenizer changes texts in a way that is not written"
    normalizer = (state.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC") or _split_name(state) is None:
        return "its tokenizer splits texts in a way that llama.cpp has no name for"
    return ""


def list_tokenizer_fields(tokenizer: PreTrainedTokenizerBase, special: SpecialTokens, size: int) -> Fields:
    """Return the tokenizer's fields of a GGUF file. size: number of ids that the model has embeddings for."""
    state = _read_state(tokenizer)
    tokens, kinds = _list_tokens(state, size)
    fields: Fields = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.add_bos_token": special.bos_added,
        "tokenizer.ggml.add_eos_token": special.eos_added,
    }
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    if state["model"].get("byte_fallback"):
        fields |= {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.scores": _score_tokens(tokens, merges),
            "tokenizer.ggml.add_space_prefix": bool(_prefix_of(state)),
        }
    else:
        fields |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": _split_name(state),
            "tokenizer.ggml.merges": merges,
        }
    ids = {"bos": special.bos, "eos": special.eos, "padding": special.pad, "unknown": tokenizer.unk_token_id}
    others = [stop for stop in special.stops if stop != special.eos]
    ids["eot"] = others[0] if others else None
    known = {name: value for name, value in ids.items() if value is not None and value < size}
    fields |= {f"tokenizer.ggml.{name}_token_id": value for name, value in known.items()}
    return fields | write_templates(tokenizer)


def write_templates(tokenizer: PreTrainedTokenizerBase) -> Fields:
    """Return the fields of the chat template; of named templates, the default is the one that every program reads."""
    found = tokenizer.chat_template
    if not isinstance(found, dict):
        return {_TEMPLATE: str(found)} if found else {}
    named = {f"{_TEMPLATE}.{name}": text for name, text in found.items() if name != "default"}
    default = {_TEMPLATE: found["default"]} if "default" in found else {}
    return {**default, **named, f"{_TEMPLATE}s": sorted(set(found) - {"default"})}


def read_templates(fields: Fields) -> str | dict[str, str] | None:
    """Return the chat template that the fields hold, or all of them by name."""
    default, names = fields.get(_TEMPLATE), [str(name) for name in fields.get(f"{_TEMPLATE}s", ())]
    if not names:
        return None if default is None else str(default)
    named = {name: str(fields[f"{_TEMPLATE}.{name}"]) for name in names}
    return named | ({"default": str(default)} if default is not None else {})


def _read_state(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return state


def _list_tokens(state: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Return texts and kinds of all ids; ids without a token are unused."""
    tokens, kinds = [f"[PAD{i}]" for i in range(size)], [UNUSED] * size
    fallback = bool(state["model"].get("byte_fallback"))
    for token, index in state["model"]["vocab"].items():
        tokens[index] = token
        is_byte = fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        kinds[index] = BYTE if is_byte else UNKNOWN if token == state["model"].get("unk_token") else NORMAL
    for added in state["added_tokens"]:
        if added["id"] >= size:  # a token that the model has no embedding for can't be in any text
            continue
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return tokens, kinds


def _score_tokens(tokens: list[str], merges: list[str]) -> list[float]:
    """Return SentencePiece's scores: the earlier a token is merged, the higher. Other tokens are below all."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, which may be a sequence of them."""
    if part is None:
        return []
    return list(part.get("pretokenizers") or part.get("normalizers") or [part])


def _split_name(state: Mapping[str, Any]) -> str | None:
    found: list[tuple[str, Any]] = []
    for step in _steps(state.get("pre_tokenizer")):
        kind = step["type"]
        if kind == "ByteLevel" and not step["add_prefix_space"]:
            found.append(("bytes", step["use_regex"]))
        elif kind == "Digits":
            found.append(("digits", step["individual_digits"]))
        elif kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            found.append(("split", step["pattern"].get("Regex")))
        else:
            return None
    return next((name for name, steps in SPLITS.items() if steps == tuple(found)), None)


def _prefix_of(state: Mapping[str, Any]) -> bool | None:
    """Return whether a text begins with a space of the tokenizer's own, None for a form that is not known."""
    steps, before = _steps(state.get("normalizer")), _steps(state.get("pre_tokenizer"))
    kinds = [step["type"] for step in steps]
    if [step["type"] for step in before] == ["Metaspace"] and not steps:
        return bool(before[0]["prepend_scheme"] != "never")
    plain = not before or [step["type"] for step in before] == ["Split"]  # Gemma's split at spaces finds none
    if plain and kinds in (["Replace"], ["Prepend", "Replace"]):
        return bool(kinds[0] == "Prepend")
    return None


def build_tokenizer(fields: Fields) -> PreTrainedTokenizerFast:
    """Return the tokenizer that the fields of a GGUF file describe, as llama.cpp understands them."""
    tokens = [str(token) for token in fields["tokenizer.ggml.tokens"]]
    kinds = fields["tokenizer.ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if fields["tokenizer.ggml.model"] == "gpt2":
        made = _build_byte_level(fields, vocabulary)
    else:
        made = _build_with_fallback(fields, vocabulary)
    added = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
    made.add_tokens([AddedToken(t, special=kind == CONTROL, normalized=False) for t, kind in added])
    named = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        index = fields.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            named[f"{name}_token"] = tokens[index]
    if fields.get("tokenizer.ggml.add_bos_token"):
        bos = named["bos_token"]
        made.post_processor = processors.TemplateProcessing(single=[bos, "$A"], special_tokens=[(bos, vocabulary[bos])])
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=read_templates(fields), **named)


def _build_byte_level(fields: Fields, vocabulary: dict[str, int]) -> Tokenizer:
    pairs = [str(merge).split(" ") for merge in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[(left, right) for left, right in pairs]))
    steps: list[pre_tokenizers.PreTokenizer] = []
    for kind, value in SPLITS[fields["tokenizer.ggml.pre"]]:
        if kind == "split":
            steps.append(pre_tokenizers.Split(Regex(value), behavior="isolated"))
        elif kind == "digits":
            steps.append(pre_tokenizers.Digits(individual_digits=value))
        else:
            steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=value))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    return made


def _build_with_fallback(fields: Fields, vocabulary: dict[str, int]) -> Tokenizer:
    scores = dict(zip(vocabulary, fields["tokenizer.ggml.scores"], strict=True))
    pairs = [
        (-scores[token], token[:at], token[at:])
        for token, kind in zip(vocabulary, fields["tokenizer.ggml.token_type"], strict=True)
        for at in range(1, len(token))
        if kind == NORMAL and token[:at] in vocabulary and token[at:] in vocabulary
    ]
    unknown = fields.get("tokenizer.ggml.unknown_token_id")
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[(left, right) for _, left, right in sorted(pairs, key=lambda pair: pair[0])],
            unk_token=None if unknown is None else list(vocabulary)[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = bool(fields["tokenizer.ggml.add_space_prefix"])
    spaces = normalizers.Replace(" ", SPACE)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made
