"""Train the bundled demo model from scratch: ``python -m toolkit.worker.pretrain_demo OUT_DIR --steps 3500``.

Trains a byte-level BPE tokenizer and a small Llama with random initial weights on ``toolkit.demo_data.corpus``, on one
CPU thread. The newest weights are written to OUT_DIR every few minutes, so it can be stopped at any time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from toolkit.demo_data.corpus import documents
from toolkit.demo_data.messages import Document

SEED = 20
VOCABULARY = 1536
"""Tokens of the vocabulary."""
DEMO_SPECIAL_TOKENS = ["<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
# A word has the same tokens in any context, so copying it only repeats tokens. Runs of spaces and punctuation may merge
# (`", "` is one token), which keeps sequences short.
PIECE_PATTERN = r"[\p{L}\p{M}]+|\p{N}|\n|[^\p{L}\p{M}\p{N}\n]+"
# There is no text between the role token and the message, so the message can't merge with the template.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}\n"
    "        {{- raise_exception('The roles are system, user and assistant, not ' + message['role']) -}}\n"
    "    {%- endif -%}\n"
    "    {{- '<|' + message['role'] + '|>' -}}\n"
    "    {%- if message['role'] == 'assistant' -%}\n"
    "        {%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}\n"
    "    {%- else -%}\n"
    "        {{- message['content'] + '<|end|>' -}}\n"
    "    {%- endif -%}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}\n"
)
ROWS_PER_BATCH, TOKENS_PER_ROW = 32, 192
"""Shape of a batch. Every eighth batch has half the rows at twice the width, so that long contexts are trained, too."""
CONTEXT_WEIGHT = 0.2
"""Loss weight of a document's context, which is partly random and can't be predicted. Its answer has weight 1."""


def train_demo_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Train and return a byte-level BPE tokenizer with the chat template. It encodes any text without loss."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECE_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in DEMO_SPECIAL_TOKENS],
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=DEMO_SPECIAL_TOKENS[0],
        pad_token=DEMO_SPECIAL_TOKENS[1],
        extra_special_tokens=DEMO_SPECIAL_TOKENS[2:],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def make_demo_model(tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int) -> LlamaForCausalLM:
    """Return a Llama with random weights and tied embeddings. hidden: its width, a multiple of 32."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, stream: Iterator[Document]
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield the token ids and loss weights of each document; 512 documents are tokenized at a time."""
    while chunk := list(itertools.islice(stream, 512)):
        encodings = tokenizer.backend_tokenizer.encode_batch([text for text, _ in chunk])
        for encoding, (_, start) in zip(encodings, chunk, strict=True):
            yield encoding.ids, [1.0 if begin >= start else CONTEXT_WEIGHT for begin, _ in encoding.offsets]


def batch_documents(
    pairs: Iterator[tuple[list[int], list[float]]], pad: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield batches of (ids, loss weights) [rows, width + 1]. Each row begins with a document and is filled with more.

    The last document of a row may be cut off. Every eighth batch has fewer, longer rows.
    """
    for number in itertools.count():
        rows, length = (
            (ROWS_PER_BATCH // 2, TOKENS_PER_ROW * 2) if number % 8 == 7 else (ROWS_PER_BATCH, TOKENS_PER_ROW)
        )
        ids = torch.full((rows, length + 1), pad)
        weights = torch.zeros(rows, length + 1)
        for row in range(rows):
            filled = 0
            while filled < length - 24:
                document, weight = next(pairs)
                take = min(len(document), length + 1 - filled)
                ids[row, filled : filled + take] = torch.tensor(document[:take])
                weights[row, filled : filled + take] = torch.tensor(weight[:take])
                filled += take
        yield ids, weights


def make_optimizers(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices and AdamW for embeddings and norms. rate: the learning rate of both."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def compute_demo_losses(
    model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Return the weighted loss, and the unweighted loss of the answers alone, in nats a token."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    losses = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    answers = losses.detach()[weight == 1.0].mean().item()
    return (losses * weight).sum() / weight.sum(), answers


def save_demo_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the weights in half precision and the tokenizer to `out`."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=128, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    copy.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def pretrain_demo_model(out: Path, options: argparse.Namespace) -> None:
    """Train until the steps or the minutes are used up, whichever comes first, and save to `out`."""
    torch.manual_seed(SEED)
    tokenizer = train_demo_tokenizer(text for text, _ in itertools.islice(documents(SEED), 60_000))
    model = make_demo_model(tokenizer, options.hidden, options.layers)
    opts = make_optimizers(model, options.rate)
    began = saved = time.monotonic()
    tokens, smoothed_loss = 0, None
    stream = batch_documents(encode_documents(tokenizer, documents(SEED + 1)), tokenizer.pad_token_id)
    for step, (ids, weights) in enumerate(stream, start=1):
        used = time.monotonic() - began
        share = max(step / options.steps, used / (options.minutes * 60))
        if share >= 1.0:
            break
        for group in (group for opt in opts for group in opt.param_groups):
            group["lr"] = options.rate * min(1.0, step / 100) * max(0.02, 1.0 - share)
        loss, answers = compute_demo_losses(model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        tokens += int((weights > 0).sum())
        smoothed_loss = answers if smoothed_loss is None else 0.96 * smoothed_loss + 0.04 * answers
        if step % 50 == 0:
            cpu_seconds = round(time.process_time())
            report = {"step": step, "answers": round(smoothed_loss, 4), "tokens": tokens, "cpu_s": cpu_seconds}
            print(json.dumps(report), flush=True)
        if time.monotonic() - saved > options.save_every * 60:
            save_demo_model(model, tokenizer, out)
            saved = time.monotonic()
    save_demo_model(model, tokenizer, out)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=120.0, help="wall-clock limit; a run that reaches it is not reproducible"
    )
    parser.add_argument("--steps", type=int, default=3500, help="optimizer steps")
    parser.add_argument("--hidden", type=int, default=192, help="width of the model, a multiple of 32")
    parser.add_argument("--layers", type=int, default=4, help="number of layers")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--save-every", type=float, default=3.0, help="minutes between two saves")
    torch.set_num_threads(1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pretrain_demo_model(options.out, options)


if __name__ == "__main__":
    main()
