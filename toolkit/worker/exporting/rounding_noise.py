"""Measure what rounding does to a run's golden prompts, so that exports are judged by it and not by a guess."""

from __future__ import annotations

import torch
from peft import PeftModel

from toolkit.config import Config
from toolkit.export.drift_bounds import RoundingNoise, measure_rounding_noise
from toolkit.export.prompt_contract import PromptContract
from toolkit.runs.run_dir import RunDir
from toolkit.worker.answering.golden_prompts import LoadedModel, measure_token_logprobs
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.models.merge import MERGE_DTYPES, convert_base_weights, load_unmerged_model, round_matrices


def measure_export_noise(run: RunDir, config: Config, contract: PromptContract, precision: str) -> RoundingNoise | None:
    """Score the golden prompts with base and adapter, unmerged, in float32 and in `precision`.

    Return None where memory is too short for the model in float32. Raises ToolkitError when it can't be loaded.
    """
    model = load_unmerged_model(run, config, resolve_model_folder(config))
    if model is None:
        return None
    exact = _score_golden_prompts(model, contract)
    round_base_weights(model, precision)
    return measure_rounding_noise(contract, exact, _score_golden_prompts(model, contract))


def round_base_weights(model: PeftModel, precision: str) -> None:
    """Round all weights but the adapter's to a key of MERGE_DTYPES or a precision of GGUF files, in place."""
    if precision in MERGE_DTYPES:
        convert_base_weights(model, MERGE_DTYPES[precision])
        return
    from toolkit.worker.exporting import gguf_blocks  # needs a package that merged exports do without

    settings = model.get_base_model().config.get_text_config()
    names = gguf_blocks.name_weights(settings)

    def round_weights(name: str, weights: torch.Tensor) -> torch.Tensor:
        shape, tied = tuple(weights.shape), bool(settings.tie_word_embeddings)
        block = gguf_blocks.choose_block(names(name), shape, precision, settings.num_hidden_layers, tied=tied)
        rounded = gguf_blocks.round_weights(weights.float().cpu().numpy(), block)
        return torch.from_numpy(rounded).to(weights.device)

    round_matrices(model, round_weights)


def _score_golden_prompts(model: LoadedModel, contract: PromptContract) -> list[tuple[float, ...]]:
    figures = [measure_token_logprobs(model, golden.ids, golden.answer_ids) for golden in contract.golden]
    return [(*one.prompt_logprobs, *one.logprobs) for one in figures]
