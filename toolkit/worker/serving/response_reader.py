"""Split what a model writes into content, reasoning and tool calls, while it writes it.

How a model writes them follows from its chat template. A tokenizer may say it, and TRL knows it of the templates that
it packages. For other templates, the known form that reads back what the template writes of an example is used.
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import regex
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_parsing import ResponseParser
from trl import chat_template_utils

from toolkit.data.conversations import MessageDict
from toolkit.worker.serving.text_stream import TextPiece, ToolCall
from toolkit.worker.tokens.answer_header import EXAMPLE_TOOLS, find_answer_opening, write_example_answers

ResponseForm = dict[str, Any]
"""A `response_template` of transformers: how the text of an answer is divided."""
AddedTexts = tuple[regex.Pattern, regex.Pattern]
"""Patterns of all added tokens, any of which may end a call, and of the special ones, which are no content."""
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_PARSE_ERRORS = (ValueError, TypeError, LookupError, RecursionError)
"""What a parser raises for a tool call that the model has written incorrectly."""
_ORDINARY_TEXT = 'print(1), find(1) {"name": "a", "parameters": {} {"name": "a", "arguments": {}'
"""Text that begins a tool call in some forms, for example those of Llama 3 and LFM2, although it is none."""
_FORMS: WeakKeyDictionary[PreTrainedTokenizerBase, ResponseForm | None] = WeakKeyDictionary()


class ResponseReader:
    """Reader of one answer: `feed` takes the next text, `finish` returns what was held back.

    form: how the answer is written. prompt: the text before it, which may have opened the reasoning. tools: those that
    were offered; they say which type an argument has. added: the tokenizer's added tokens.
    """

    def __init__(self, form: ResponseForm, prompt: str, tools: Sequence[Mapping[str, Any]], added: AddedTexts) -> None:
        ambiguous = regex.search(_opening_of_calls(form), _ORDINARY_TEXT) is not None
        if ambiguous and not tools:
            form = {**form, "fields": {name: one for name, one in form["fields"].items() if name != "tool_calls"}}
        self._form = form
        self._callable = {str(tool["function"]["name"]) for tool in tools} if ambiguous else None
        self._parser = ResponseParser(form, prefix=_after_anchor(form, prompt), tools=list(tools) or None)
        self._marks, self._hidden = added
        self._call = ""  # what is written of a call so far: the parser gets it up to a mark, which may be its end
        self._in_call = False
        self._unread = ""  # text that is in no piece yet, with the marks around it
        self._space = ""  # white space at the end of the content, dropped where a tool call follows
        self._reasons = False  # whether reasoning has begun
        self._calls = 0
        self._body = ""  # text of the call that is being read
        self._plain = False  # after a call that can't be read, everything is content

    def feed(self, text: str) -> TextPiece:
        """Return the next piece of the answer, which may be empty."""
        if self._plain:
            return TextPiece(self._visible(text))
        self._unread += text
        self._call += text
        if self._in_call and not self._marks.search(text):
            return TextPiece("")
        text, self._call = self._call, ""
        try:
            return self._read_events(self._parser.feed(text))
        except _PARSE_ERRORS:
            return self._give_up()

    def finish(self) -> TextPiece:
        """Return the rest."""
        if self._plain:
            return TextPiece("")
        try:
            events = self._parser.feed(self._call)
            piece = self._read_events([*events, *self._parser.finalize()[1]])
        except _PARSE_ERRORS:
            return self._give_up()
        return piece if self._calls else TextPiece(piece.text + self._take_space(), (), piece.reasoning, piece.calls)

    def _read_events(self, events: Sequence[Mapping[str, Any]]) -> TextPiece:
        content, reasoning = "", ""
        calls: list[ToolCall] = []
        for event in events:
            field, kind = event["field"], event["type"]
            if field == "tool_calls":
                self._in_call = kind != "region_close"
                self._body += event.get("text", "")
                if self._in_call:
                    continue
                taken = self._take_calls(event["value"])
                if not taken:
                    content += self._give_up().text
                    break
                calls += taken
            elif kind == "region_chunk":
                self._unread = self._unread.partition(event["text"])[2]
                if field in _REASONING_FIELDS:
                    reasoning += self._next_reasoning(event["text"])
                else:
                    content += self._next_content(event["text"])
            elif kind == "region_close" and field in _REASONING_FIELDS:
                self._space = ""
        return TextPiece(content, (), reasoning, tuple(calls))

    def _next_content(self, text: str) -> str:
        text = self._take_space() + self._visible(text)
        self._space = text[len(text.rstrip()) :]
        return text[: len(text) - len(self._space)]

    def _next_reasoning(self, text: str) -> str:
        text = self._next_content(text)
        self._reasons, text = self._reasons or bool(text), text if self._reasons else text.lstrip()
        return text

    def _take_space(self) -> str:
        space, self._space = self._space, ""
        return space

    def _take_calls(self, value: Any) -> list[ToolCall]:
        """Return the calls of a region, or none if one of them has no name, or one that ordinary text may have."""
        functions = [call.get("function") for call in _as_list(value) if isinstance(call, Mapping)]
        found = [one for one in functions if isinstance(one, Mapping) and isinstance(one.get("name"), str)]
        if not found or len(found) < len(_as_list(value)):
            return []
        if self._callable is not None and not self._callable.issuperset(one["name"] for one in found):
            return []
        self._unread = self._unread.partition(self._body)[2] if self._body else self._unread
        self._body, first, self._calls = "", self._calls, self._calls + len(found)
        return [_to_tool_call(at, function) for at, function in enumerate(found, start=first)]

    def _give_up(self) -> TextPiece:
        """Return the text from the call that can't be read on as content."""
        self._plain = True
        found = regex.search(_opening_of_calls(self._form), self._unread)
        return TextPiece(self._take_space() + self._visible(self._unread[found.start() if found else 0 :]))

    def _visible(self, text: str) -> str:
        return str(self._hidden.sub("", text))


def _opening_of_calls(form: ResponseForm) -> str:
    """Return the pattern at which a tool call begins; one that nothing matches where there are none."""
    field = form["fields"].get("tool_calls", {})
    return str(field.get("open_pattern") or regex.escape(str(field.get("open", ""))) or r"(?!)")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _to_tool_call(index: int, function: Mapping[str, Any]) -> ToolCall:
    arguments = function.get("arguments", {})
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return ToolCall(index, f"call_{secrets.token_hex(12)}", function["name"], written)


def create_response_reader(
    tokenizer: PreTrainedTokenizerBase, prompt: str, tools: Sequence[Mapping[str, Any]]
) -> ResponseReader | None:
    """Return a reader of the answer to a rendered prompt; None where an answer is nothing but its text."""
    if tokenizer not in _FORMS:
        _FORMS[tokenizer] = _find_form(tokenizer) if tokenizer.chat_template else None
    form = _FORMS[tokenizer]
    return None if form is None else ResponseReader(form, prompt, tools, _added_texts(tokenizer))


def _added_texts(tokenizer: PreTrainedTokenizerBase) -> AddedTexts:
    added = list(tokenizer.added_tokens_decoder.values())
    return _any_of(str(token) for token in added), _any_of(str(token) for token in added if token.special)


def _any_of(texts: Iterable[str]) -> regex.Pattern:
    return regex.compile("|".join(map(regex.escape, sorted(texts, key=len, reverse=True))) or r"(?!)")


def _find_form(tokenizer: PreTrainedTokenizerBase) -> ResponseForm | None:
    """Return the form of a tokenizer's answers; None where they are nothing but content.

    A form that has to be found reads back the most parts of the examples, and always the content.
    """
    own = _packaged_form(tokenizer)
    if own:
        return _with_malformed_calls(own)
    examples = list(write_example_answers(tokenizer))
    best, most = None, 0
    for form in _known_forms(tokenizer):
        read = [_reads_back(form, tokenizer, *example) for example in examples]
        if read[:1] == [True] and sum(read) - 1 > most:
            best, most = form, sum(read) - 1
    return best


def _reads_back(
    form: ResponseForm, tokenizer: PreTrainedTokenizerBase, prompt: str, text: str, answer: MessageDict
) -> bool:
    reader = ResponseReader(form, prompt, EXAMPLE_TOOLS, _added_texts(tokenizer))
    pieces = [reader.feed(text), reader.finish()]
    read = "".join(piece.text for piece in pieces).strip(), "".join(piece.reasoning for piece in pieces).strip()
    calls = [(call.name, call.arguments) for piece in pieces for call in piece.calls]
    functions = [call["function"] for call in answer.get("tool_calls", ())]
    wanted = [(function["name"], json.dumps(function["arguments"])) for function in functions]
    return (*read, calls) == (answer["content"], answer.get("reasoning_content", ""), wanted)


def _packaged_form(tokenizer: PreTrainedTokenizerBase) -> ResponseForm | None:
    """Return the form that the tokenizer has, or that TRL has for its template; None without a usable one."""
    found = copy.copy(tokenizer)
    try:
        if not getattr(found, "response_template", None):
            found = chat_template_utils.add_response_schema(found)
        ResponseParser(found.response_template, prefix="")
    except _PARSE_ERRORS:  # not one of the packaged templates, or a damaged form
        return None
    return dict(found.response_template)


def _known_forms(tokenizer: PreTrainedTokenizerBase) -> Iterator[ResponseForm]:
    packaged = [value for name, value in vars(chat_template_utils).items() if name.endswith("_template")]
    for form in (*packaged, _tag_form(tokenizer)):
        if isinstance(form, dict) and "fields" in form:
            yield _with_malformed_calls(form)


def _tag_form(tokenizer: PreTrainedTokenizerBase) -> ResponseForm | None:
    """Return the form with the tags <think> and <tool_call> behind this template's opening of an answer."""
    opening = find_answer_opening(tokenizer).partition("<think>")[0]
    fields = {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"content": "text"},
    }
    return {"defaults": {"role": "assistant"}, "start_anchor": opening, "fields": fields} if opening else None


def _with_malformed_calls(form: ResponseForm) -> ResponseForm:
    """Return the form with arguments kept as text where they are not valid JSON, as OpenAI's API returns them."""
    found = copy.deepcopy(form)
    calls = found["fields"].get("tool_calls", {})
    if calls.get("content") == "json":
        calls["content_args"] = {**calls.get("content_args", {}), "allow_non_json": True}
    return found


def _after_anchor(form: ResponseForm, prompt: str) -> str:
    """Return the prompt if it has the form's opening of an answer; without it the parser would read all of it."""
    anchors = form.get("start_anchor", [])
    pattern = form.get("start_anchor_pattern") or "|".join(map(regex.escape, _as_list(anchors)))
    return prompt if regex.search(pattern, prompt) else ""
