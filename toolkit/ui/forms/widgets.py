"""The widget of each kind of setting: an ordered list of rules, of which the first that matches draws the setting.

A rule draws one value or several. A widget shows the draft's value and passes what the user enters to `save`.
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
from toolkit.ui.workspace import workspace

FLAG_WORDS: dict[str, bool | None] = {typed_text.AUTO: None, "On": True, "Off": False}
"""The choices of a setting that is decided automatically unless the user decides; others have only On and Off."""
SHARE_CHOICE, ROWS_CHOICE, REST_CHOICE = "Share", "Rows", "Remaining rows"
INITIAL_ROW_COUNT = 100
"""The initial value of "Rows", small enough for any dataset; the user is expected to change it."""


@dataclass(frozen=True)
class WidgetInput:
    """What a widget needs to draw a setting.

    value: one value, or a list of values for `WidgetRule.draw_several`. save: is called with the new one.
    """

    spec: FieldSpec
    layout: FieldLayout
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
    """Which settings a widget is for, and how it draws one value or the several values of a study."""

    name: str
    matches: Callable[[FieldSpec, FieldLayout], bool]
    draw_single: Callable[[WidgetInput], None]
    draw_several: Callable[[WidgetInput], None]


def find_widget_rule(spec: FieldSpec, layout: FieldLayout) -> WidgetRule:
    """Return the first rule that matches. Raises: LookupError if none does."""
    for candidate in WIDGET_RULES:
        if candidate.matches(spec, layout):
            return candidate
    raise LookupError(f"no widget rule matches {spec.path} ({spec.kind})")


def make_saver(path: str, shown: Any, version: int, save: Callable[[str, Any], None]) -> Callable[[Any], None]:
    """Return what saves a new value of a widget that was drawn with the value `shown` for this version of the draft.

    After the draft was replaced, the browser may still report the values of the widgets before. Their keys are not
    those of the new ones, so nobody takes them for an entry there; here, a value that the old widget has had is no
    entry either. Another value is: the user has typed it before the new widgets arrived.
    """
    had = [shown]

    def save_entry(new: Any) -> None:
        if version != workspace.draft_version() and new in had:
            return
        had.append(new)
        save(path, new)

    return save_entry


def _seed(key: str, shown: Any, argument: str = "value") -> dict[str, Any]:
    """Show the draft's value: return it as the widget's default argument, or write it to the widget's state.

    The default is needed because a widget that the browser rebuilds during a rerun reports its default; an empty one
    would look as if the user had cleared the box.
    """
    if st.session_state.get(key, shown) == shown:
        return {argument: shown}
    st.session_state[key] = shown
    return {}


def _saver(cell: WidgetInput, read: Callable[[Any], Any]) -> Callable[[], None]:
    return lambda: cell.save(read(st.session_state[cell.key]))


def _text(cell: WidgetInput) -> None:
    empty = cell.layout.when_empty if cell.spec.optional else None
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
    _box(cell, shown, read, "Values, separated by commas, or a range: 1..8", ":material/stacks:")


def _box(cell: WidgetInput, shown: str, read: Callable[[Any], Any], empty: str | None, icon: str | None = None) -> None:
    save = _saver(cell, read)
    seed = _seed(cell.key, shown)
    st.text_input(cell.label, key=cell.key, help=cell.tooltip, placeholder=empty, icon=icon, on_change=save, **seed)


def _area(cell: WidgetInput) -> None:
    seed = _seed(cell.key, typed_text.format_field_text(cell.spec, cell.value))
    read = _saver(cell, lambda text: text)
    st.text_area(cell.label, key=cell.key, help=cell.tooltip, on_change=read, height=_height(cell.layout.rows), **seed)


def _texts(cell: WidgetInput) -> None:
    """Draw a list of long texts in one box, separated by lines of dashes."""
    seed = _seed(cell.key, f"\n{typed_text.TEXT_SEPARATOR}\n".join(map(str, _as_list(cell.value))))
    read = _saver(cell, lambda text: typed_text.split_texts(text) or (None if cell.spec.optional else []))
    st.text_area(
        cell.label,
        key=cell.key,
        help=cell.tooltip,
        on_change=read,
        height=_height(cell.layout.rows),
        placeholder=f"Separate texts by a line of {typed_text.TEXT_SEPARATOR}. Empty: {cell.layout.empty}",
        **seed,
    )


def _area_many(cell: WidgetInput) -> None:
    """Draw several long texts, separated by lines of dashes, or several lists, one per line."""
    seed = _seed(cell.key, typed_text.format_several_values(cell.spec, cell.value))
    separated = f"Values, separated by a line of {typed_text.TEXT_SEPARATOR}"
    placeholder = separated if cell.spec.kind == "text" else "One list per line"
    read = _saver(cell, lambda text: typed_text.parse_several_values(cell.spec, text))
    rows = cell.layout.rows + 3 if cell.layout.rows else 3
    st.text_area(
        cell.label,
        key=cell.key,
        help=cell.tooltip,
        placeholder=placeholder,
        on_change=read,
        height=_height(rows),
        **seed,
    )


def _height(rows: int) -> int:
    return max(68, 26 * rows + 18)


def _switch(cell: WidgetInput) -> None:
    seed = _seed(cell.key, cell.value is True)
    st.toggle(cell.label, key=cell.key, help=cell.tooltip, on_change=_saver(cell, bool), **seed)


def _flag(cell: WidgetInput) -> None:
    choices = _flag_choices(cell, [cell.value])
    # a value from a file that is none of these is shown as no choice, with its error below
    chosen = next((word for word in choices if FLAG_WORDS[word] is cell.value), None)
    st.segmented_control(
        cell.label,
        choices,
        key=cell.key,
        required=chosen is not None,
        help=cell.tooltip,
        on_change=_saver(cell, lambda word: FLAG_WORDS[word] if word else cell.value),
        **_seed(cell.key, chosen, "default"),
    )


def _flag_many(cell: WidgetInput) -> None:
    choices = _flag_choices(cell, cell.value)
    chosen = [word for word in choices if any(FLAG_WORDS[word] is value for value in cell.value)]
    st.segmented_control(
        cell.label,
        choices,
        key=cell.key,
        selection_mode="multi",
        help=cell.tooltip,
        on_change=_saver(cell, lambda words: [FLAG_WORDS[word] for word in choices if word in words]),
        **_seed(cell.key, chosen, "default"),
    )


def _flag_choices(cell: WidgetInput, present: Sequence[Any]) -> list[str]:
    """Return the words of a flag: with Auto where it is the default, or where a file has left the setting empty."""
    has_auto = typed_text.is_auto_flag(cell.spec) or None in present
    return [word for word in FLAG_WORDS if has_auto or FLAG_WORDS[word] is not None]


def _select(cell: WidgetInput) -> None:
    # the library's default is an option of its own: a box that can be cleared would fall back to no default
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
    return cell.layout.when_empty if word == typed_text.LIBRARY_DEFAULT else cell.layout.words.get(word, word)


def _select_many(cell: WidgetInput) -> None:
    words = [typed_text.format_one_of_several(cell.spec, value) for value in cell.value]
    extra = [*words, typed_text.LIBRARY_DEFAULT] if cell.spec.optional else words
    st.multiselect(
        cell.label,
        _options(cell, extra),
        key=cell.key,
        format_func=lambda word: cell.layout.words.get(word, word),
        help=cell.tooltip,
        placeholder="Choose or type values" if cell.spec.kind != "choice" else "Choose values",
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
        placeholder=cell.layout.when_empty,
        accept_new_options=True,
        on_change=_saver(cell, lambda found: read_list(cell.spec, found)),
        **_seed(cell.key, words, "default"),
    )


def read_list(spec: FieldSpec, words: Sequence[str]) -> list[Any] | None:
    """Return the value of a box of entries; for an optional setting no entries mean the library's default."""
    if not words:
        return None if spec.optional else []
    return typed_text.parse_indexes(words) if spec.kind == "indexes" else list(words)


def _size(cell: WidgetInput) -> None:
    """Draw a split size, which is a share or a number of rows: a choice between the two, and a box for the value."""
    mode_key = f"{cell.key}:mode"
    mode = REST_CHOICE if cell.value is None else ROWS_CHOICE if isinstance(cell.value, int) else SHARE_CHOICE
    typed = st.session_state.setdefault(
        f"{cell.key}:typed", {SHARE_CHOICE: cell.spec.default, ROWS_CHOICE: INITIAL_ROW_COUNT}
    )
    if isinstance(cell.value, int | float):
        typed[mode] = cell.value  # restored when the user returns to this mode
    with st.container(gap="xxsmall"):
        st.segmented_control(
            cell.label,
            [SHARE_CHOICE, ROWS_CHOICE, REST_CHOICE],
            key=mode_key,
            help=cell.tooltip,
            required=True,
            on_change=lambda: cell.save(typed.get(st.session_state[mode_key])),
            **_seed(mode_key, mode, "default"),
        )
        st.text_input(
            f"{cell.layout.label}: {mode.lower()}",
            key=cell.key,
            label_visibility="collapsed",
            disabled=mode == REST_CHOICE,
            placeholder=cell.layout.when_empty,
            on_change=_saver(cell, lambda text: read_size(cell.spec, text, as_share=mode == SHARE_CHOICE)),
            **_seed(cell.key, typed_text.format_field_text(cell.spec, cell.value)),
        )


def read_size(spec: FieldSpec, text: str, *, as_share: bool) -> Any:
    """Return the typed split size: as a share, 1 is 1.0 (the whole, which is refused); as rows, 1.0 is one row."""
    value = typed_text.parse_field_text(spec, text)
    if isinstance(value, int) and as_share:
        return float(value)
    if isinstance(value, float) and value.is_integer() and not as_share:
        return int(value)
    return value


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _options(cell: WidgetInput, present: Sequence[str]) -> list[str]:
    known = cell.spec.choices or cell.layout.suggestions
    return [*known, *(word for word in dict.fromkeys(present) if word not in known)]


WIDGET_RULES: tuple[WidgetRule, ...] = (
    WidgetRule("long text", lambda spec, layout: spec.kind == "text" and layout.rows > 0, _area, _area_many),
    WidgetRule("long texts", lambda spec, layout: spec.kind == "words" and layout.rows > 0, _texts, _area_many),
    WidgetRule("switch", lambda spec, layout: spec.kind == "flag" and layout.switch, _switch, _flag_many),
    WidgetRule("flag", lambda spec, layout: spec.kind == "flag", _flag, _flag_many),
    WidgetRule("choice", lambda spec, layout: spec.kind == "choice", _select, _select_many),
    WidgetRule("word", lambda spec, layout: spec.kind == "text" and bool(layout.suggestions), _select, _select_many),
    WidgetRule("list", lambda spec, layout: spec.kind in ("words", "indexes"), _list, _area_many),
    WidgetRule("size", lambda spec, layout: spec.kind == "size", _size, _text_many),
    WidgetRule("number", lambda spec, layout: spec.kind in ("whole", "number"), _text, _text_many),
    WidgetRule("text", lambda spec, layout: spec.kind == "text", _text, _select_many),
)
