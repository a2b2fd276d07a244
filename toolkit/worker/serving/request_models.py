"""Request bodies of the engine's HTTP API, their validation, and the error of an invalid request.

Settings that a request leaves out are those of the run (`inference` of its config). Parameters of OpenAI's API that
the engine does not support are rejected by name; only those without an effect are ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toolkit.config import InferenceConfig
from toolkit.errors import EngineError
from toolkit.runs.model_names import MODEL_NAME_PATTERN
from toolkit.worker.constraints.response_format import ResponseFormat, build_grammar

ENGINE_SEED_LIMIT = 2**32
MAX_ALTERNATIVES, MAX_COMPARED_REQUESTS, MAX_TOOLS = 20, 4, 128
OPENAI_ALIASES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens"}
IGNORED_FIELDS = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "presence_penalty": (0,), "frequency_penalty": (0,), "logit_bias": ({},),
    "suffix": ("",), "functions": ([],), "function_call": ("none", "auto"),
    "echo": (False,), "parallel_tool_calls": (True, False),
}  # fmt: skip
"""Parameters of OpenAI's API that are accepted only with a value that has no effect."""


class RequestError(EngineError):
    """A rejected request. status: HTTP status. code, param: as in OpenAI's errors."""

    def __init__(
        self, message: str, hint: str = "", *, status: int = 400, code: str = "invalid_request", param: str = ""
    ):
        super().__init__(message, hint)
        self.status, self.code, self.param = status, code, param


class RequestBody(BaseModel):
    """Base of all request bodies: unknown parameters, NaN and infinity are rejected."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class TextPart(RequestBody):
    type: Literal["text"]
    text: str


class RequestMessage(RequestBody):
    """One message, as clients write it or as the engine has answered it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    @model_validator(mode="after")
    def _has_content(self) -> RequestMessage:
        if self.content is None and not self.tool_calls and not self.reasoning_content:
            raise RequestError("A message has no content.", "Add its content.", param="messages.content")
        if self.role == "tool" and not self.tool_call_id:
            message = "A message of the role 'tool' has no 'tool_call_id'."
            raise RequestError(message, "Add the id of the tool call that it answers.", param="messages.tool_call_id")
        if self.tool_calls and self.role != "assistant":
            message = f"A message of the role '{self.role}' has tool calls."
            raise RequestError(message, "Only messages of the assistant can have tool calls.", param="messages")
        return self

    @property
    def text(self) -> str:
        """The content, with the parts of a list joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())

    @property
    def uses_tools(self) -> bool:
        """Whether the message calls a tool or is the result of a call."""
        return self.role == "tool" or bool(self.tool_calls)


class OfferedFunction(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: Annotated[str, Field(min_length=1)]


class OfferedTool(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: Literal["function"]
    function: OfferedFunction


class StreamOptions(RequestBody):
    include_usage: bool = False
    include_obfuscation: bool = False


class AnswerRequest(RequestBody):
    """What chat and text completions share. prompt_of: the run whose prompt format is used for the base model."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    prompt_of: Annotated[str, Field(max_length=200)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_new_tokens: int | None = None
    use_cache: bool | None = None
    do_sample: bool | None = None
    top_p: float | None = None
    temperature: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    top_k: int | None = None
    seed: Annotated[int, Field(ge=0, lt=ENGINE_SEED_LIMIT)] | None = None
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    response_format: ResponseFormat | None = None

    @model_validator(mode="before")
    @classmethod
    def _openai_names(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kept: dict[str, Any] = {}
        for name, value in given.items():
            if name in IGNORED_FIELDS:
                continue
            if name in NEUTRAL_VALUES:
                if value is not None and value not in NEUTRAL_VALUES[name]:
                    raise RequestError(f"The engine does not support '{name}'.", "Remove it.", param=name)
                continue
            if name in OPENAI_ALIASES:
                if value is not None:
                    kept.setdefault(OPENAI_ALIASES[name], value)
                continue
            kept[name] = value
        return kept

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end the answer; empty ones are ignored."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)

    def find_grammar(self) -> str | None:
        """Grammar of the answer, None for any text. Raises RequestError: it can't be followed."""
        schema = self.response_format.schema_text if self.response_format else None
        if schema is None:
            return None
        try:
            return build_grammar(schema)
        except EngineError as error:
            raise RequestError(error.message, error.hint, param="response_format") from error

    def settings(self, defaults: InferenceConfig) -> InferenceConfig:
        """Return the settings of the run, overridden by those of the request.

        As in OpenAI's API, a temperature turns sampling on, and temperature 0 turns it off; `do_sample` takes
        precedence. Raises RequestError: the settings are invalid.
        """
        sent = {name: getattr(self, name) for name in self.model_fields_set if name in InferenceConfig.model_fields}
        if "do_sample" not in sent and sent.get("temperature") is not None:
            sent["do_sample"] = sent["temperature"] > 0
        if sent.get("do_sample") and sent.get("temperature") == 0:
            raise RequestError(
                "Sampling needs a temperature above 0.", "Raise temperature, or remove do_sample.", param="temperature"
            )
        return parse_request(InferenceConfig, {**defaults.model_dump(), **sent})


class ChatRequest(AnswerRequest):
    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=2000)]
    tools: Annotated[list[OfferedTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None

    def find_grammar(self) -> str | None:
        """Grammar of the answer. Raises RequestError: with tools, whose calls are no part of it."""
        found = super().find_grammar()
        if found is not None and self.offered_tools:
            hint = "Ask without tools, or without a response_format."
            raise RequestError("A 'response_format' leaves no room for tool calls.", hint, param="response_format")
        return found

    @property
    def offered_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools that the model may call. Raises RequestError: the choice of a tool can't be guaranteed."""
        if self.tool_choice not in (None, "auto", "none"):
            message = 'The engine does not support a \'tool_choice\' other than "auto" and "none".'
            raise RequestError(message, 'Use "auto": the model decides whether it calls a tool.', param="tool_choice")
        return () if self.tool_choice == "none" else tuple(tool.model_dump() for tool in self.tools or ())

    @property
    def alternatives(self) -> int | None:
        """Number of alternatives to return for each token; None: no token scores."""
        if self.top_logprobs and not self.logprobs:
            raise RequestError("'top_logprobs' needs 'logprobs'.", 'Add "logprobs": true.', param="top_logprobs")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(AnswerRequest):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None

    @property
    def alternatives(self) -> int | None:
        """Number of alternatives to return for each token; None: no token scores."""
        return self.logprobs

    @property
    def text(self) -> str:
        """The prompt; OpenAI's API takes a list too."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class RenderRequest(RequestBody):
    model: Annotated[str, Field(min_length=1, max_length=200)]
    prompt_of: Annotated[str, Field(max_length=200)] | None = None
    messages: Annotated[list[RequestMessage], Field(min_length=1, max_length=2000)]


class CompareRequest(RequestBody):
    """Several chat requests, answered side by side in one stream."""

    asks: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_COMPARED_REQUESTS)]


class ScoreRequest(RequestBody):
    """An expected answer to score. prompt: without the chat template, which is added. history: earlier messages."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    prompt_of: Annotated[str, Field(max_length=200)] | None = None
    prompt: Annotated[str, Field(min_length=1)]
    completion: Annotated[str, Field(min_length=1)]
    history: Annotated[list[RequestMessage], Field(max_length=2000)] = []
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] = 0


class LoadRequest(RequestBody):
    run: Annotated[str, Field(pattern=f"^{MODEL_NAME_PATTERN}$")]


ParsedBody = TypeVar("ParsedBody", bound=BaseModel)


def parse_request(kind: type[ParsedBody], given: Any) -> ParsedBody:
    """Return `given` (a value, or JSON as bytes) as a `kind`.

    Raises RequestError: it is invalid; the error names the first wrong field.
    """
    try:
        return kind.model_validate_json(given) if isinstance(given, bytes) else kind.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise RequestError(f"The engine has no parameter '{name}'.", "Remove it.", param=name) from error
        value = repr(first["input"])[:80]
        prefix = f"'{name}': " if name else ""
        message = f"{prefix}{first['msg']}. The value is {value}."
        raise RequestError(message, "Correct the request.", param=name) from error
