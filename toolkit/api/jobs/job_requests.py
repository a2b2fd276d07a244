"""The request that creates a fine-tuning job, and the settings that it stands for.

"auto" and what a request leaves out are this project's defaults. What OpenAI's API offers and this one does not is
refused by name.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from toolkit.config import Config
from toolkit.errors import ConfigError
from toolkit.settings.validation import parse_draft
from toolkit.worker.serving.request_models import RequestBody, RequestError

OPENAI_MODEL = re.compile(r"(gpt-|chatgpt-|o\d|davinci|babbage).*")
"""Names of models that exist at OpenAI only; another base model stands for them."""
_PARAMETERS = {
    "training.training_args.num_train_epochs": "n_epochs",
    "training.training_args.per_device_train_batch_size": "batch_size",
    "training.training_args.learning_rate": "learning_rate_multiplier",
    "training.training_args.seed": "seed",
    "model.hf_model_ckpt": "model",
}
"""Setting -> parameter of the request, for errors."""

MetadataText = Annotated[str, StringConstraints(max_length=512)]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
FileReference = Annotated[str, StringConstraints(min_length=1, max_length=80)]


class SupervisedHyperparameters(RequestBody):
    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=10_000)] = "auto"
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=4096)] = "auto"
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"


class SupervisedMethod(RequestBody):
    hyperparameters: SupervisedHyperparameters = SupervisedHyperparameters()


class TuningMethod(RequestBody):
    type: str
    supervised: SupervisedMethod = SupervisedMethod()
    dpo: dict[str, Any] | None = None
    reinforcement: dict[str, Any] | None = None


class JobRequest(RequestBody):
    """The body of `POST /v1/fine_tuning/jobs`."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    training_file: FileReference
    validation_file: FileReference | None = None
    suffix: Annotated[str, StringConstraints(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    hyperparameters: SupervisedHyperparameters | None = None
    method: TuningMethod | None = None
    metadata: Annotated[dict[MetadataKey, MetadataText], Field(max_length=16)] | None = None
    integrations: list[dict[str, Any]] | None = None

    @property
    def tuning(self) -> SupervisedHyperparameters:
        """The hyperparameters; those of the method take the place of the older ones."""
        older = self.hyperparameters or SupervisedHyperparameters()
        newer = self.method.supervised.hyperparameters if self.method else SupervisedHyperparameters()
        chosen = {name: value for name, value in newer.model_dump().items() if value != "auto"}
        return older.model_copy(update=chosen)

    def check_offered(self) -> None:
        """Raise RequestError for what this API does not offer."""
        method = self.method
        if method is not None and (method.type != "supervised" or method.dpo or method.reinforcement):
            kind = method.type if method.type != "supervised" else "dpo" if method.dpo else "reinforcement"
            message = f"The method '{kind[:40]}' is not offered."
            raise RequestError(message, "Use the method 'supervised'.", code="unsupported_method", param="method.type")
        if self.integrations:
            message = "Integrations are not offered: nothing is sent to other services."
            raise RequestError(message, "Remove 'integrations'.", param="integrations")
        if self.model.startswith("ft:"):
            message = "A fine-tuned model can't be fine-tuned further over this API."
            hint = "Name a base model, or continue the run on the Runs page of the app."
            raise RequestError(message, hint, code="model_not_available", param="model")


def resolve_base_model(name: str, stand_in: str) -> str:
    """Return the base model that a request means. stand_in: what OpenAI's own models are replaced by."""
    return stand_in if OPENAI_MODEL.fullmatch(name) else name


def build_job_config(asked: JobRequest, base_model: str, data: dict[str, Any], save_dir: str) -> Config:
    """Return the settings of a job. data: those of the section `data`. Raises RequestError for values out of range."""
    tuning, defaults = asked.tuning, Config().training.training_args
    args: dict[str, Any] = {}
    if tuning.n_epochs != "auto":
        args["num_train_epochs"] = tuning.n_epochs
    if tuning.batch_size != "auto":
        args["per_device_train_batch_size"] = tuning.batch_size
    if tuning.learning_rate_multiplier != "auto":
        args["learning_rate"] = (defaults.learning_rate or 0.0) * tuning.learning_rate_multiplier
    if asked.seed is not None:
        args["seed"] = asked.seed
    draft = {
        "data": {"file_type": "json", **data},
        "model": {"hf_model_ckpt": base_model},
        "training": {"training_args": args},
        "save_dir": save_dir,
    }
    try:
        return parse_draft(draft)
    except ConfigError as error:
        first = error.problems[0]
        param = _PARAMETERS.get(first.path, first.path)
        raise RequestError(f"{first.message} {first.hint}".strip(), "", param=param) from error


def describe_hyperparameters(asked: JobRequest, config: Config | None) -> dict[str, Any]:
    """Return the hyperparameters of a job: as they were asked, or as a run uses them once it has a config."""
    tuning = asked.tuning.model_dump()
    if config is None:
        return tuning
    args, usual = config.training.training_args, Config().training.training_args.learning_rate
    factor = round(args.learning_rate / usual, 6) if args.learning_rate and usual else 1.0
    return {
        "n_epochs": args.num_train_epochs,
        "batch_size": args.per_device_train_batch_size,
        "learning_rate_multiplier": factor,
    }
