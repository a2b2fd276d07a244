"""From a setting's kind to the widget that edits it: an ordered list of rules, the first that fits is drawn.

A rule draws one value or several. Widgets are views: each is seeded from the draft and hands what was typed to `save`.
A setting that no rule fits raises LookupError (a test draws every one). Knows no draft and no validation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from toolkit.settings import typed_text
from toolkit.settings.field_spec import FieldSpec
from toolkit.settings.form_layout import FieldLayout
from toolkit.ui.elements.escape import escape_lines

FLAG_LABELS = {True: "On", False: "Off"}
SHARE_CHOICE, ROWS_CHOICE, REST_CHOICE = "Share", "Rows", "The rest"
INITIAL_ROW_COUNT = 100
"""What "Rows" starts with: a count to correct, small enough for any dataset."""


@dataclass(frozen=True)
class WidgetInput:
    """What a widget needs. `value`: one value, or a list of values for `Rule.many`. `save` gets the new one."""

    spec: FieldSpec
    place: FieldLayout
    value: Any
    key: str
    label: str
    help: str
    save: Callable[[Any], None]

    @property
    def tooltip(self) -> str:
        return escape_lines(self.help)


@dataclass(frozen=True)
class WidgetRule:
    name: str
    fits: Callable[[FieldSpec, FieldLayout], bool]
    one: Callable[[WidgetInput], None]
    many: Callable[[WidgetInput], None]


def find_widget_rule(spec: FieldSpec, place: FieldLayout) -> WidgetRule:
    """The first that fits; raises LookupError."""
    for candidate in WIDGET_RULES:
        if candidate.fits(spec, place):
            return candidate
    raise LookupError(f"no widget rule fits {spec.path} ({spec.kind})")


def _seed(key: str, shown: Any, argument: str = "value") -> dict[str, Any]:
    """Show the draft's value: returns the widget's own default, or writes a difference into its state.

    The default matters: a widget that the browser builds anew in the middle of a rerun reports it, and an empty one
    would come back as if the person had emptied the box.
    """
    if st.session_state.get(key, shown) == shown:
        return {argument: shown}
    st.session_state[key] = shown
    return {}


def _saver(cell: WidgetInput, read: Callable[[Any], Any]) -> Callable[[], None]:
    return lambda: cell.save(read(st.session_state[cell.key]))


def _text(cell: WidgetInput) -> None:
    empty = cell.place.when_empty if cell.spec.optional else None
    _box(
        cell,
        typed_text.format_field_text(cell.spec, cell.value),
        lambda text: typed_text.parse_field_text(cell.spec, text),
        empty,
    )


def _text_many(cell: WidgetInput) -> None:
    shown, read = (
        typed_text.format_several_values(cell.spec, cell.value),
        lambda text: typed_text.parse_several_values(cell.spec, text),
    )
    _box(cell, shown, read, "Values, with commas between", ":material/stacks:")


def _box(cell: WidgetInput, shown: str, read: Callable[[Any], Any], empty: str | None, icon: str | None = None) -> None:
    save = _saver(cell, read)
    seed = _seed(cell.key, shown)
    st.text_input(cell.label, key=cell.key, help=cell.tooltip, placeholder=empty, icon=icon, on_change=save, **seed)


def _area(cell: WidgetInput) -> None:
    seed = _seed(cell.key, typed_text.format_field_text(cell.spec, cell.value))
    read = _saver(cell, lambda text: text)
    st.text_area(cell.label, key=cell.key, help=cell.tooltip, on_change=read, height=_height(cell.place.rows), **seed)


def _texts(cell: WidgetInput) -> None:
    """A list of long texts in one box, between lines of dashes."""
    seed = _seed(cell.key, f"\n{typed_text.TEXT_SEPARATOR}\n".join(map(str, _as_list(cell.value))))
    read = _saver(cell, lambda text: typed_text.split_texts(text) or (None if cell.spec.optional else []))
    st.text_area(
        cell.label, key=cell.key, help=cell.tooltip, on_change=read, height=_height(cell.place.rows),
        placeholder=f"Between lines of {typed_text.TEXT_SEPARATOR}. Empty: {cell.place.empty}", **seed,
    )  # fmt: skip


def _area_many(cell: WidgetInput) -> None:
    """Long texts and lists: one value a line, or between lines of dashes."""
    seed = _seed(cell.key, typed_text.format_several_values(cell.spec, cell.value))
    way = f"Values between lines of {typed_text.TEXT_SEPARATOR}" if cell.spec.kind == "text" else "One list a line"
    read = _saver(cell, lambda text: typed_text.parse_several_values(cell.spec, text))
    rows = cell.place.rows + 3 if cell.place.rows else 3
    st.text_area(
        cell.label, key=cell.key, help=cell.tooltip, placeholder=way, on_change=read, height=_height(rows), **seed
    )


def _height(rows: int) -> int:
    return max(68, 26 * rows + 18)


def _switch(cell: WidgetInput) -> None:
    seed = _seed(cell.key, cell.value is True)
    st.toggle(cell.label, key=cell.key, help=cell.tooltip, on_change=_saver(cell, bool), **seed)


def _flag(cell: WidgetInput) -> None:
    st.segmented_control(
        cell.label, [False, True], key=cell.key, required=not cell.spec.optional, help=cell.tooltip,
        format_func=lambda value: FLAG_LABELS[value], on_change=_saver(cell, lambda value: value),
        **_seed(cell.key, cell.value if isinstance(cell.value, bool) else None, "default"),
    )  # fmt: skip


def _flag_many(cell: WidgetInput) -> None:
    st.segmented_control(
        cell.label, [False, True], key=cell.key, selection_mode="multi", help=cell.tooltip,
        format_func=lambda value: FLAG_LABELS[value], on_change=_saver(cell, sorted),
        **_seed(cell.key, [value for value in cell.value if isinstance(value, bool)], "default"),
    )  # fmt: skip


def _select(cell: WidgetInput) -> None:
    # "leave it to the library" is an option of its own: a box that can be cleared has no default to fall back to
    word = typed_text.LIBRARY_DEFAULT if cell.value is None else str(cell.value)
    options = _options(cell, [word, typed_text.LIBRARY_DEFAULT] if cell.spec.optional else [word])
    seed = _seed(cell.key, word)
    st.selectbox(
        cell.label,
        options,
        index=options.index(word) if seed else 0,
        key=cell.key,
        format_func=lambda word: _option_words(cell, word),
        help=cell.tooltip,
        accept_new_options=cell.spec.kind != "choice",
        on_change=_saver(
            cell,
            lambda word: None if word == typed_text.LIBRARY_DEFAULT else typed_text.parse_field_text(cell.spec, word),
        ),
    )


def _option_words(cell: WidgetInput, word: str) -> str:
    return cell.place.when_empty if word == typed_text.LIBRARY_DEFAULT else cell.place.words.get(word, word)


def _select_many(cell: WidgetInput) -> None:
    words = [typed_text.format_one_of_several(cell.spec, value) for value in cell.value]
    extra = [*words, typed_text.LIBRARY_DEFAULT] if cell.spec.optional else words
    st.multiselect(
        cell.label,
        _options(cell, extra),
        key=cell.key,
        format_func=lambda word: cell.place.words.get(word, word),
        help=cell.tooltip,
        placeholder="Choose values, or type" if cell.spec.kind != "choice" else "Choose values",
        accept_new_options=cell.spec.kind != "choice",
        on_change=_saver(cell, lambda found: [typed_text.parse_one_of_several(cell.spec, word) for word in found]),
        **_seed(cell.key, words, "default"),
    )


def _list(cell: WidgetInput) -> None:
    words = [str(item) for item in _as_list(cell.value)]
    st.multiselect(
        cell.label,
        _options(cell, words),
        key=cell.key,
        help=cell.tooltip,
        placeholder=cell.place.when_empty,
        accept_new_options=True,
        on_change=_saver(cell, lambda found: read_list(cell.spec, found)),
        **_seed(cell.key, words, "default"),
    )


def read_list(spec: FieldSpec, words: Sequence[str]) -> list[Any] | None:
    """What stands in a box of entries; none at all is "leave it to the library"."""
    if not words:
        return None if spec.optional else []
    return typed_text.parse_layer_indexes(words) if spec.kind == "indexes" else list(words)


def _size(cell: WidgetInput) -> None:
    """A share or a number of rows: two different things that look alike, so the box stands beside the choice."""
    mode_key = f"{cell.key}:mode"
    mode = REST_CHOICE if cell.value is None else ROWS_CHOICE if isinstance(cell.value, int) else SHARE_CHOICE
    typed = st.session_state.setdefault(
        f"{cell.key}:typed", {SHARE_CHOICE: cell.spec.default, ROWS_CHOICE: INITIAL_ROW_COUNT}
    )
    if isinstance(cell.value, int | float):
        typed[mode] = cell.value  # comes back when this way is chosen again
    with st.container(gap="xxsmall"):
        st.segmented_control(
            cell.label, [SHARE_CHOICE, ROWS_CHOICE, REST_CHOICE], key=mode_key, help=cell.tooltip, required=True,
            on_change=lambda: cell.save(typed.get(st.session_state[mode_key])), **_seed(mode_key, mode, "default"),
        )  # fmt: skip
        st.text_input(
            f"{cell.place.label}: {mode.lower()}", key=cell.key, label_visibility="collapsed", disabled=mode == REST_CHOICE,
            placeholder=cell.place.when_empty, **_seed(cell.key, typed_text.format_field_text(cell.spec, cell.value)),
            on_change=_saver(cell, lambda text: read_size(cell.spec, text, as_share=mode == SHARE_CHOICE)),
        )  # fmt: skip


def read_size(spec: FieldSpec, text: str, *, as_share: bool) -> Any:
    """What was typed beside "Share" or "Rows": there 1 is the whole (and refused), here it is one row."""
    value = typed_text.parse_field_text(spec, text)
    if isinstance(value, int) and as_share:
        return float(value)
    if isinstance(value, float) and value.is_integer() and not as_share:
        return int(value)
    return value


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _options(cell: WidgetInput, present: Sequence[str]) -> list[str]:
    known = cell.spec.choices or cell.place.suggestions
    return [*known, *(word for word in dict.fromkeys(present) if word not in known)]


WIDGET_RULES: tuple[WidgetRule, ...] = (
    WidgetRule("long text", lambda spec, place: spec.kind == "text" and place.rows > 0, _area, _area_many),
    WidgetRule("long texts", lambda spec, place: spec.kind == "words" and place.rows > 0, _texts, _area_many),
    WidgetRule("switch", lambda spec, place: spec.kind == "flag" and place.switch, _switch, _flag_many),
    WidgetRule("flag", lambda spec, place: spec.kind == "flag", _flag, _flag_many),
    WidgetRule("choice", lambda spec, place: spec.kind == "choice", _select, _select_many),
    WidgetRule("word", lambda spec, place: spec.kind == "text" and bool(place.suggestions), _select, _select_many),
    WidgetRule("list", lambda spec, place: spec.kind in ("words", "indexes"), _list, _area_many),
    WidgetRule("size", lambda spec, place: spec.kind == "size", _size, _text_many),
    WidgetRule("number", lambda spec, place: spec.kind in ("whole", "number"), _text, _text_many),
    WidgetRule("text", lambda spec, place: spec.kind == "text", _text, _select_many),
)
