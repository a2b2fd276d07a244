"""Messages in whose content tool calls and their results are parts, as Anthropic's and Bedrock's APIs write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def expand_tool_parts(message: Any) -> list[Any]:
    """Return a message with its calls as `tool_calls`, and each result as a message of its own, before the rest."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list):
        return [message]
    parts = [_Part(part) for part in content if isinstance(part, Mapping)]
    calls = [part.call for part in parts if part.call is not None]
    results = [part.result for part in parts if part.result is not None]
    if not calls and not results:
        return [message]
    used = [part.written for part in parts if part.call is not None or part.result is not None]
    rest = [part for part in content if part not in used]
    more = {"tool_calls": calls} if calls else {}
    return [*results, *([{**message, "content": rest, **more}] if rest or calls else [])]


class _Part:
    """A part of a content. call, result: what it is as OpenAI's API writes it, None if it is something else."""

    def __init__(self, written: Mapping[str, Any]) -> None:
        self.written = written
        self.call = self.result = None
        kind = written.get("type")
        used = written if kind == "tool_use" else written.get("toolUse")
        if isinstance(used, Mapping) and isinstance(used.get("name"), str):
            function = {"name": used["name"], "arguments": used.get("input") or {}}
            self.call = {"id": used.get("id", used.get("toolUseId")), "type": "function", "function": function}
        returned = written if kind == "tool_result" else written.get("toolResult")
        if isinstance(returned, Mapping):
            call_id = returned.get("tool_use_id", returned.get("toolUseId"))
            self.result = {"role": "tool", "tool_call_id": call_id, "content": _result_text(returned.get("content"))}


def _result_text(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        text = part.get("text", part.get("json")) if isinstance(part, Mapping) else part
        texts.append(text if isinstance(text, str) else json.dumps(part if text is None else text, ensure_ascii=False))
    return "\n".join(texts)


def read_tool_schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a tool of these APIs with its schema under `parameters`; another one unchanged."""
    inside = tool.get("toolSpec")
    spec = inside if isinstance(inside, Mapping) else tool
    schema = spec.get("input_schema", spec.get("inputSchema"))
    if schema is None:
        return spec
    inner = schema.get("json", schema) if isinstance(schema, Mapping) else schema
    return {key: value for key, value in spec.items() if key not in ("input_schema", "inputSchema")} | {
        "parameters": inner
    }
