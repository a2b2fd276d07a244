"""Messages of a conversation: one object of OpenAI's, ShareGPT's, Gemini's or TRL's format becomes a Message.

Tool calls, tool results and reasoning are kept. A key that is not understood is reported, never dropped silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from toolkit.data.tool_parts import expand_tool_parts, read_tool_schema
from toolkit.errors import DataError

ROLES = {
    "system": "system", "developer": "system", "systeminstruction": "system",
    "user": "user", "human": "user", "prompter": "user", "customer": "user",
    "patient": "user", "student": "user", "seeker": "user", "caller": "user",
    "doctor": "assistant", "therapist": "assistant", "counselor": "assistant", "counsellor": "assistant",
    "tutor": "assistant", "teacher": "assistant", "supporter": "assistant",
    "end-user": "user", "end_user": "user", "enduser": "user", "end user": "user", "visitor": "user", "client": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "ai": "assistant", "chatbot": "assistant", "agent": "assistant",
    "support": "assistant", "operator": "assistant", "representative": "assistant",
    "function_call": "assistant", "tool_call": "assistant", "function_calls": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool", "tool_result": "tool",
}  # fmt: skip
"""Roles as files write them, in lower case and without outer space -> roles as chat templates know them."""
TOOLS_ROLE = "tools"
"""Role of the leading entry that lists the available tools; it is not a message."""
_CALL_ROLES = ("function_call", "tool_call", "function_calls")
ROLE_KEYS = ("role", "from", "author", "sender", "speaker")
CONTENT_KEYS = ("content", "value", "parts", "text", "utterance")
_SPEAKER_PAIRS = (("user", "assistant"), ("human", "assistant"))
_TURN_PAIRS = (
    ("user", "bot"), ("human", "bot"), ("human", "gpt"), ("question", "answer"), ("input", "output"),
    ("prompt", "response"), ("prompt", "completion"), ("instruction", "output"), ("instruction", "response"),
    ("q", "a"),
)  # fmt: skip
"""Keys of an object that is a question and its answer; the latter have no other key next to them."""
TRAIN_KEYS = ("weight", "train", "loss_mask", "trainable", "loss", "training", "trained", "learn")
"""Keys of a message that say whether it is trained."""
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
CALL_KEYS = ("tool_calls", "function_call")
_KNOWN_KEYS = frozenset((*ROLE_KEYS, *CONTENT_KEYS, *TRAIN_KEYS, *REASONING_KEYS, *CALL_KEYS, "tool_call_id"))
_TEXT_TYPES = (None, "text", "input_text", "output_text")
_REASONING_TYPES = ("thinking", "reasoning")
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_SPOKEN = re.compile(r"\s*([^\W\d_]{2,12})\s?:\s+(.+)", re.DOTALL)
"""A text behind the role of its speaker: "Doctor: How are you?"."""
_BLANK: tuple[Any, ...] = (None, "", [], {})


@dataclass(frozen=True)
class Message:
    """One message. role: "system", "user", "assistant" or "tool"; learned: whether the model is trained to write it.

    tool_calls: JSON list of {"type": "function", "function": {"name", "arguments"}}, or "". name, tool_call_id: of a
    tool result. With the role TOOLS_ROLE, the content is the JSON list of the available tools.
    """

    role: str
    content: str
    learned: bool = False
    reasoning: str = ""
    tool_calls: str = ""
    name: str = ""
    tool_call_id: str = ""


def expand_pairs(messages: Sequence[Any]) -> list[Any]:
    """Return the messages, with each [question, answer] or {"human", "assistant"} pair as two messages.

    Of a list of texts, the user says the first one, the assistant the next one, and so on.
    """
    if len(messages) > 1 and all(isinstance(each, str) for each in messages):
        said = [_SPOKEN.fullmatch(each) for each in messages]
        roles = [ROLES.get(match.group(1).casefold()) for match in said if match]
        if len(roles) == len(messages) and None not in roles:
            return [{"role": role, "content": match.group(2)} for role, match in zip(roles, said, strict=True) if match]
        return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(messages)]
    found: list[Any] = []
    for each in chain.from_iterable(map(expand_tool_parts, map(_read_langchain, messages))):
        keys = {key.casefold(): key for key in each if isinstance(key, str)} if isinstance(each, dict) else {}
        pair = None if any(key in keys for key in ROLE_KEYS) else _pair_keys(keys)
        if isinstance(each, list) and len(each) == 2 and all(part is None or isinstance(part, str) for part in each):
            found += _pair(*each)
        elif pair is not None:
            found += _pair(each[keys[pair[0]]], each[keys[pair[1]]])
        else:
            found.append(each)
    return found


def _read_langchain(message: Any) -> Any:
    """Return a message that LangChain wrote, with a type instead of a role, as role and content; another unchanged."""
    if not isinstance(message, dict) or any(key in message for key in ROLE_KEYS):
        return message
    inner = next((message[key] for key in ("data", "kwargs") if isinstance(message.get(key), dict)), message)
    path = message.get("id")  # of the class
    named = path[-1] if isinstance(path, list) and path and isinstance(path[-1], str) else ""
    kind = re.sub("Message(Chunk)?$", "", named) if "Message" in named else message.get("type")
    if not isinstance(kind, str) or kind.casefold() not in ROLES or "content" not in inner:
        return message
    used = {key: inner[key] for key in ("content", *CALL_KEYS, "tool_call_id", "name") if key in inner}
    return {"role": kind.casefold(), **used}


def _pair_keys(keys: Mapping[str, str]) -> tuple[str, str] | None:
    named = next((pair for pair in _SPEAKER_PAIRS if set(pair) <= keys.keys()), None)
    return named or next((pair for pair in _TURN_PAIRS if set(pair) == keys.keys()), None)


def _pair(question: Any, answer: Any) -> Iterator[dict[str, Any]]:
    for role, content in (("user", question), ("assistant", answer)):
        if content not in _BLANK:
            yield {"role": role, "content": content}


def parse_message(number: int, message: Any) -> Message:
    """Return a message. number: its 1-based position, for error messages.

    Raises DataError whose message continues a sentence such as "Row 3, column 'messages':".
    """
    if not isinstance(message, Mapping):
        raise DataError(f"message {number} is not an object.", "Write each message as an object with role and content.")
    written = _spelled_role(message)
    role = ROLES.get(written)
    if role is None:
        hint = "The roles are system, user, assistant and tool (human and gpt in ShareGPT files)."
        raise DataError(f"message {number} has the unknown role '{written[:40]}'.", hint)
    raw = next((message[key] for key in CONTENT_KEYS if message.get(key) is not None), None)
    if written in _CALL_ROLES:
        calls, text, reasoning = _calls_in_text(number, raw), "", ""
    else:
        calls, text, reasoning, is_result = _read_content(number, raw, role)
        role = "tool" if is_result else role
        calls += _read_calls(number, message)
    reasoning = next((str(message[key]) for key in REASONING_KEYS if message.get(key) not in _BLANK), reasoning)
    if raw is None and not calls and not reasoning:
        raise DataError(f"message {number} has no text.", "Add its content, or skip the row.")
    return Message(
        role,
        text,
        role == "assistant" and _is_trained(number, message),
        reasoning if role == "assistant" else "",
        json.dumps(calls, ensure_ascii=False) if calls and role == "assistant" else "",
        str(message.get("name") or _result_name(raw)) if role == "tool" else "",
        str(message.get("tool_call_id") or "") if role == "tool" else "",
    )


def find_unused_keys(message: Any) -> Iterator[str]:
    """Yield the keys of a message that `parse_message` does not use and that have a value."""
    if not isinstance(message, Mapping):
        return
    role = written_role(message)
    said_by = next((key for key in ROLE_KEYS if message.get(key) is not None), None)
    for key, value in message.items():
        if value in _BLANK or (key == "name" and role == "tool"):
            continue
        if key in ROLE_KEYS and key != said_by:
            yield str(key)
            continue
        # only messages of the assistant are trained, so a mark on another one has no effect unless it says no
        marked = key in TRAIN_KEYS and str(value).strip().casefold() in _NO
        if key not in _KNOWN_KEYS or (role != "assistant" and key in (*TRAIN_KEYS, *REASONING_KEYS) and not marked):
            yield str(key)


def parse_tools(tools: Any) -> str:
    """Return a list of tools as JSON text, each as {"type": "function", "function": ...}; "" for no tool.

    Raises DataError whose message continues a sentence such as "Row 3, column 'messages':".
    """
    if isinstance(tools, str) and tools.strip():
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError) as error:
            raise DataError("its list of tools is not valid JSON.", "Correct it, or leave it empty.") from error
    if tools in _BLANK or (isinstance(tools, str) and not tools.strip()):
        return ""
    found = list(_function_tools([tools] if isinstance(tools, Mapping) else tools))
    return json.dumps(found, ensure_ascii=False) if found else ""


def _function_tools(tools: Any) -> Iterator[dict[str, Any]]:
    for number, written in enumerate(tools if isinstance(tools, list) else [tools], start=1):
        tool = read_tool_schema(written) if isinstance(written, dict) else written
        declared = (
            tool.get("functionDeclarations", tool.get("function_declarations")) if isinstance(tool, dict) else None
        )
        if isinstance(declared, list):
            yield from _function_tools(declared)
        elif isinstance(tool, dict) and isinstance(tool.get("function"), dict) and tool["function"].get("name"):
            yield {"type": "function", "function": tool["function"]}
        elif isinstance(tool, dict) and isinstance(tool.get("name"), str):
            yield {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
        else:
            hint = "Write each tool as an object with name, description and parameters."
            raise DataError(f"tool {number} of its list of tools has no name.", hint)


def written_role(message: Mapping[str, Any]) -> str | None:
    """Return the role of a message as chat templates know it; None if it has none or an unknown one."""
    return ROLES.get(_spelled_role(message))


def _spelled_role(message: Mapping[str, Any]) -> str:
    role = next((message[key] for key in ROLE_KEYS if message.get(key) is not None), "")
    if isinstance(role, Mapping):  # the author of a message that ChatGPT exported
        role = role.get("role") or role.get("name") or ""
    return str(role).strip().casefold()


def _read_content(number: int, content: Any, role: str) -> tuple[list[dict[str, Any]], str, str, bool]:
    """Return (tool calls, text, reasoning, whether the message is a tool's result) of a message's content."""
    if content is None or isinstance(content, str):
        return [], content or "", "", False
    if role == "tool" and not isinstance(content, list):
        return [], json.dumps(content, ensure_ascii=False), "", False
    parts = [content] if isinstance(content, Mapping) else content
    if not isinstance(parts, list):
        raise DataError(f"message {number} has no text.", "Write its content as text.")
    calls: list[dict[str, Any]] = []
    texts: list[str] = []
    reasoning: list[str] = []
    is_result = False
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("functionCall"), Mapping):
            call = part["functionCall"]
            calls.append(_function_call(number, {"name": call.get("name"), "arguments": call.get("args") or {}}))
        elif isinstance(part, Mapping) and isinstance(part.get("functionResponse"), Mapping):
            is_result = True
            texts.append(json.dumps(part["functionResponse"].get("response"), ensure_ascii=False))
        else:
            _read_part(number, part, texts, reasoning)
    return calls, "".join(texts), "".join(reasoning), is_result


def _read_part(number: int, part: Any, texts: list[str], reasoning: list[str]) -> None:
    """Add the text of a content part to `texts` or `reasoning`. Raises DataError for one that is no text."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind in _REASONING_TYPES and isinstance(found := part.get(kind, part.get("text")), str):
        reasoning.append(found)
    elif isinstance(part, Mapping) and kind in _TEXT_TYPES and isinstance(part.get("text"), str):
        (reasoning if part.get("thought") is True else texts).append(part["text"])
    else:
        named = kind or next(iter(part), "") if isinstance(part, Mapping) else kind
        message = f"message {number} contains a part of type '{str(named)[:40]}'."
        raise DataError(message, "Only text can be trained on.")


def _result_name(content: Any) -> str:
    """Return the name of the function that a part of Gemini's format is the response of, or ""."""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, Mapping) and isinstance(part.get("functionResponse"), Mapping):
            return str(part["functionResponse"].get("name") or "")
    return ""


def _read_calls(number: int, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls")
    if isinstance(calls, str) and calls.strip():
        calls = _loaded(number, calls)
    found = [_function_call(number, call) for call in (calls if isinstance(calls, list) else [])]
    if calls not in _BLANK and not isinstance(calls, list) and not (isinstance(calls, str) and not calls.strip()):
        found.append(_function_call(number, calls))
    old = message.get("function_call")
    return found if old in _BLANK else [*found, _function_call(number, old)]


def _calls_in_text(number: int, content: Any) -> list[dict[str, Any]]:
    """Return the tool calls of a ShareGPT message with the role function_call: its text is the call as JSON."""
    loaded = _loaded(number, content) if isinstance(content, str) else content
    calls = [_function_call(number, call) for call in (loaded if isinstance(loaded, list) else [loaded])]
    if not calls:
        raise DataError(f"message {number} has no tool call.", "Add the call, or skip the row.")
    return calls


def _loaded(number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = 'Write it as {"name": "...", "arguments": {...}}.'
        raise DataError(f"message {number} has a tool call that is not valid JSON.", hint) from error


def _function_call(number: int, call: Any) -> dict[str, Any]:
    """Return a call as {"id", "type", "function": {"name", "arguments"}}; arguments written as JSON text are read."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"message {number} has a tool call without a name.", "Add the name of the function.")
    arguments = function.get("arguments", function.get("parameters", function.get("args", {})))
    if isinstance(arguments, str):
        try:
            loaded = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):
            loaded = arguments  # a model's malformed call, kept as it was written
        arguments = loaded if isinstance(loaded, dict) else arguments
    found: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}
    return {"id": call["id"], **found} if call.get("id") not in _BLANK else found


def _is_trained(number: int, message: Mapping[str, Any]) -> bool:
    trained = True
    for key in TRAIN_KEYS:
        value = message.get(key)
        text = str(value).strip().casefold()
        if value is None or text in _YES:
            continue
        if text not in _NO:
            hint = "Use 0 or false (not trained), or 1 or true (trained)."
            raise DataError(f"message {number} has the {key} {str(value)[:20]}.", hint)
        trained = False
    return trained
