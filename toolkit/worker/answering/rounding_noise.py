"""Measure what rounding does to a run's golden prompts, so that exports are judged by it and not by a guess."""

from __future__ import annotations

from toolkit.config import Config
from toolkit.export.drift_bounds import RoundingNoise, measure_rounding_noise
from toolkit.export.prompt_contract import PromptContract
from toolkit.runs.run_dir import RunDir
from toolkit.worker.answering.golden_prompts import LoadedModel, measure_token_logprobs
from toolkit.worker.models.folder import resolve_model_folder
from toolkit.worker.models.merge import load_unmerged_model, round_base_weights


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


def _score_golden_prompts(model: LoadedModel, contract: PromptContract) -> list[tuple[float, ...]]:
    figures = [measure_token_logprobs(model, golden.ids, golden.answer_ids) for golden in contract.golden]
    return [(*one.prompt_logprobs, *one.logprobs) for one in figures]
