"""The fixed workload of the training benchmarks: a 16 M Llama with random weights, its tokenizer, and two datasets.

    python -m benchmarks.workload FOLDER

Writes FOLDER/model (fp32 safetensors), FOLDER/narrow.jsonl and FOLDER/wide.jsonl with the columns instruction, output.
Everything follows from SEED: two machines get the same bytes. The text is synthetic; it only has to have the lengths.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

SEED = 1234
ROWS, HELD_OUT = 400, 64
SHAPE = {
    "vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SYLLABLES = [consonant + vowel for consonant in "bdklmnr" for vowel in "aeiou"]


def words(dice: random.Random) -> list[str]:
    """6,000 made-up words, the first ones used most."""
    return ["".join(dice.choices(_SYLLABLES, k=dice.randint(1, 4))) for _ in range(6000)]


def text(dice: random.Random, vocabulary: list[str], count: int) -> str:
    picked = [vocabulary[min(int(dice.paretovariate(0.7)) - 1, len(vocabulary) - 1)] for _ in range(max(1, count))]
    return " ".join(picked).capitalize() + "."


def rows(kind: str) -> list[dict[str, str]]:
    """narrow: log-normal around 60 words, few long ones. wide: the same middle, and a tail up to 600 words."""
    dice = random.Random(f"{SEED}-{kind}")
    vocabulary = words(random.Random(SEED))
    spread, longest = (0.45, 200) if kind == "narrow" else (1.0, 600)
    made = []
    for _ in range(ROWS + HELD_OUT):
        total = min(longest, max(12, int(dice.lognormvariate(4.1, spread))))
        asked = int(total * dice.uniform(0.3, 0.7))
        made.append({"instruction": text(dice, vocabulary, asked), "output": text(dice, vocabulary, total - asked)})
    return made


def write_model(folder: Path, corpus: list[str]) -> None:
    """The tokenizer, trained on `corpus`, and the random weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus, trainers.BpeTrainer(vocab_size=SHAPE["vocab_size"], special_tokens=special, initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<|im_end|>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    write_random_model(folder, folder, SHAPE)


def write_random_model(folder: Path, tokenizer: Path, shape: dict[str, Any]) -> None:
    """A Llama of this shape with random fp32 weights, beside a copy of the tokenizer in `tokenizer`."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        **{"max_position_embeddings": 2048, "tie_word_embeddings": False, **shape},
        bos_token_id=None, eos_token_id=loaded.eos_token_id, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    loaded.save_pretrained(folder)


def make(folder: Path) -> Path:
    """Write everything that is not there yet; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {kind: rows(kind) for kind in ("narrow", "wide")}
    for kind, found in made.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    if not (folder / "model" / "config.json").exists():
        write_model(folder / "model", [" ".join(row.values()) for row in made["wide"]] * 2)
    return folder


if __name__ == "__main__":
    print(make(Path(sys.argv[1])))
