"""The body of a question to the background worker about the tokens of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.data.table import Table

_DATA = ("prompt", "prompt_stub", "messages", "optional_columns", "use_chat_template")
_LORA = ("target_modules", "trainable_token_indices")
_SFT = ("max_seq_length", "completion_only_loss")


def token_question_body(draft: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Return the body of a question about a table's tokens.

    It has only the settings that decide the tokens or name parts of the model, so that a change of another setting
    reuses the cached answer. The settings may be invalid; the worker then answers with an error.
    """
    data, training = draft.get("data") or {}, draft.get("training") or {}
    sft, model, lora = training.get("sft_args") or {}, draft.get("model") or {}, draft.get("lora") or {}
    config = {
        "data": {name: data[name] for name in _DATA if name in data},
        "model": {"hf_model_ckpt": model.get("hf_model_ckpt")},
        "lora": {name: lora[name] for name in _LORA if name in lora},
        "training": {"sft_args": {name: sft[name] for name in _SFT if name in sft}},
    }
    return {"config": config, "table": str(table.path), "sha256": table.sha256}
