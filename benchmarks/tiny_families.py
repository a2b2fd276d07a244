"""Tiny random models of the families that people fine-tune, each with the chat template that TRL packages for it.

A family is a row of `FAMILIES`: what its config needs besides `SHAPE`, and the template. All have a byte-level BPE of
some 400 tokens, whose EOS is what the family's template writes after an answer.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "please send 12 blue lamps to Anna Berg in Oslo",
    "order lamp chair table plate spoon shelf clock scarf please please",
    '{"name": "Tom Reed", "quantity": 4, "city": "Rome"}',
    "system user assistant developer end of turn model thought",
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 1024}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
ROTARY = {**GROUPED, "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0}}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 500_000.0}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, **GROUPED}
SLIDING = {"sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, **GROUPED}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2, **GROUPED}
MAMBA = {"state_size": 8, "expand": 2, "conv_kernel": 4, "time_step_rank": 4}


@dataclass(frozen=True)
class TinyFamily:
    """settings: of the config, besides SHAPE. template: a file of TRL, "chatml" or "" for none. targets: of LoRA.

    refused: words of the reason why it can't be trained here, "" if it can.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    template: str = "chatml"
    targets: tuple[str, ...] = ("all-linear",)
    refused: str = ""


FAMILIES: dict[str, TinyFamily] = {
    "llama": TinyFamily(ROTARY, "llama3"),
    "mistral": TinyFamily({**ROTARY, "sliding_window": 16}),
    "qwen2": TinyFamily({**GROUPED, "rope_parameters": YARN, "tie_word_embeddings": True}, "qwen2_5"),
    "qwen3": TinyFamily({**ROTARY, "head_dim": 16}, "qwen3"),
    "gemma": TinyFamily({"head_dim": 16, **GROUPED}, "gemma"),
    "gemma2": TinyFamily(GEMMA, "gemma"),
    "gemma3_text": TinyFamily({**GEMMA, **SLIDING}, "gemma3"),
    "phi": TinyFamily({"partial_rotary_factor": 0.5}, ""),
    "phi3": TinyFamily(ROTARY, "phi3"),
    "smollm3": TinyFamily(ROTARY),
    "gpt2": TinyFamily({"tie_word_embeddings": True}, ""),
    "gpt_neo": TinyFamily({"attention_types": [[["global", "local"], 1]], "window_size": 16}, ""),
    "gpt_neox": TinyFamily({"rotary_pct": 0.25, "rotary_emb_base": 25_000}, ""),
    "gptj": TinyFamily({"rotary_dim": 8}, ""),
    "gpt_bigcode": TinyFamily({}, ""),
    "codegen": TinyFamily({"rotary_dim": 8}, ""),
    "opt": TinyFamily({"ffn_dim": 96, "word_embed_proj_dim": 64}, ""),
    "bloom": TinyFamily({}, ""),
    "mpt": TinyFamily({"d_model": 64, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 256}, ""),
    "falcon": TinyFamily({"new_decoder_architecture": True, "num_kv_heads": 2}),
    "stablelm": TinyFamily({**ROTARY, "partial_rotary_factor": 0.25}),
    "starcoder2": TinyFamily({**ROTARY, "sliding_window": 32}, ""),
    "olmo": TinyFamily(ROTARY),
    "olmo2": TinyFamily(ROTARY),
    "olmo3": TinyFamily({**ROTARY, **SLIDING}),
    "cohere": TinyFamily(ROTARY, "cohere"),
    "cohere2": TinyFamily({**ROTARY, **SLIDING, "head_dim": 16}),
    "granite": TinyFamily({**ROTARY, "logits_scaling": 2.0, "embedding_multiplier": 3.0}),
    "glm": TinyFamily({**GROUPED, "head_dim": 16}),
    "glm4": TinyFamily({**GROUPED, "head_dim": 16}),
    "exaone4": TinyFamily({**ROTARY, **SLIDING}),
    "nemotron": TinyFamily(ROTARY),
    "persimmon": TinyFamily({}),
    "helium": TinyFamily({**ROTARY, "head_dim": 16}),
    "seed_oss": TinyFamily({**ROTARY, "head_dim": 16}),
    "ernie4_5": TinyFamily({**ROTARY, "head_dim": 16}),
    "hunyuan_v1_dense": TinyFamily({**ROTARY, "head_dim": 16}),
    "arcee": TinyFamily(ROTARY),
    "lfm2": TinyFamily({**ROTARY, "layer_types": ["conv", "full_attention"]}, "lfm2"),
    "mixtral": TinyFamily(LOCAL),
    "qwen2_moe": TinyFamily({**EXPERTS, "shared_expert_intermediate_size": 32}, "qwen2_5"),
    "qwen3_moe": TinyFamily({**EXPERTS, "head_dim": 16}, "qwen3"),
    "olmoe": TinyFamily({"num_experts": 4, "num_experts_per_tok": 2, **GROUPED}),
    "granitemoe": TinyFamily(LOCAL),
    "gpt_oss": TinyFamily({**LOCAL, "head_dim": 16, **SLIDING}, "gptoss"),
    "mamba": TinyFamily(MAMBA, "", refused="Mamba layers"),
    "bert": TinyFamily({}, "", refused="encoder model"),
    "t5": TinyFamily({"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}, "",
                     refused="encoder-decoder"),
    "clip_text_model": TinyFamily({}, "", refused="no head for text generation"),
}  # fmt: skip
"""By `model_type`."""


def read_packaged_template(name: str) -> str:
    """Return a chat template: "chatml", or the file of that name in TRL's package."""
    if name == "chatml":
        return CHATML
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def make_tiny_tokenizer(template: str) -> Any:
    """Return a byte-level BPE with the marks of a template as special tokens; "" for a tokenizer without a template.

    It has a BOS, which a tokenizer without a template adds to each text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    text = read_packaged_template(template) if template else ""
    marks = sorted(set(re.findall(r"<[|｜]?[A-Za-z_][^<>\s{}'\"]*>", text)) - {"<s>", "</s>", "<pad>"})
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", *marks]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXTS * 4, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    if not template:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, extra_special_tokens=marks, **named)
    if template:
        tokenizer.chat_template = text
        turns = [{"role": "user", "content": "the quick fox"}, {"role": "assistant", "content": "jumps over"}]
        after = str(tokenizer.apply_chat_template(turns, tokenize=False)).split("jumps over")[-1]
        ends = re.findall(r"<[|｜]?[^<>\s]+>", after)
        tokenizer.eos_token = ends[0] if ends else "</s>"
    return tokenizer


def save_tiny_model(name: str, folder: Path, *, template: str | None = None, **changes: Any) -> Path:
    """Save a random model of the family with its tokenizer into `folder`, and return it.

    template: instead of the family's. changes: of the config's settings.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    family = FAMILIES[name]
    tokenizer = make_tiny_tokenizer(family.template if template is None else template)
    torch.manual_seed(0)
    ids = {f"{which}_token_id": getattr(tokenizer, f"{which}_token_id") for which in ("bos", "eos", "pad")}
    settings = copy.deepcopy(
        {**SHAPE, **family.settings, **changes}
    )  # configs write their defaults into `rope_parameters`
    config = AutoConfig.for_model(name, **settings, **ids, vocab_size=len(tokenizer))
    if not family.refused or name == "mamba":
        model = AutoModelForCausalLM.from_config(config)
    else:
        model = (AutoModelForSeq2SeqLM if name == "t5" else AutoModel).from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
