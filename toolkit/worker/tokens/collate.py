"""The collator that SFTTrainer makes for itself, for those who look at a batch without a model. A test compares."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


def make_collator(tokenizer: PreTrainedTokenizerBase) -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
