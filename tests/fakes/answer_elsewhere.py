"""python answer_elsewhere.py: reads exports with whatever transformers is on the path, and answers as it does.

Standard input: a JSON list of {"folder", "base", "texts"}; base is the base model's folder for an adapter, else null.
The last line of the output: {"version", "answers": [{"ids", "answers", "logprobs"}, or {"error"}]}. It imports nothing
of the project, because it stands for any other program.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

NEW_TOKENS = 8


def read_model(folder: str, base: str | None) -> Any:
    """Load a model in float32, so that only its files and not this machine's rounding decide."""
    model = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32, local_files_only=True)
    if base is None:
        return model.eval()
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder).eval()


def answer(folder: str, base: str | None, texts: list[str]) -> dict[str, Any]:
    """Return the ids of the texts, the greedy answers, and the log-probabilities of the last position."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder, local_files_only=True), read_model(folder, base)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    greedy = GenerationConfig(
        do_sample=False, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, pad_token_id=tokenizer.pad_token_id
    )
    answers, logprobs = [], []
    with torch.no_grad():
        for row in ids:
            given = {"input_ids": torch.tensor([row]), "attention_mask": torch.ones(1, len(row), dtype=torch.long)}
            answers.append(model.generate(**given, generation_config=greedy)[0, len(row) :].tolist())
            logprobs.append(model(**given).logits[0, -1].log_softmax(-1).tolist())
    return {"ids": ids, "answers": answers, "logprobs": logprobs}


def try_answer(**export: Any) -> dict[str, Any]:
    """Return the answers, or the error of an export that can't be read: the caller compares all of them."""
    try:
        return answer(**export)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    found = [try_answer(**export) for export in json.load(sys.stdin)]
    print(json.dumps({"version": transformers.__version__, "answers": found}))
