"""The film strip under the loss: a slider over the evaluated steps, and what each pinned prompt was answered there."""

from __future__ import annotations

import streamlit as st

from toolkit.runs.run_dir import RunDir
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_plural
from toolkit.ui.runs.film import Film, format_word_diff, matches_expected, read_film, word_diff

PROMPT_LIMIT = 400
ANSWER_LIMIT = 3000


def chosen_film_step(run: RunDir) -> int | None:
    """The step that the slider stands on; None for a run without answers. Draw the slider with `film_strip`.

    Follows the newest answers until somebody moves the slider away from them.
    """
    steps = read_film(run.film_path).steps
    if not steps:
        return None
    key, newest = f"film_{run.id}", f"film_newest_{run.id}"
    stands = st.session_state.get(key)
    if stands not in steps or stands == st.session_state.get(newest):
        st.session_state[key] = steps[-1]
    st.session_state[newest] = steps[-1]
    return int(st.session_state[key])


def draw_film_strip(run: RunDir) -> None:
    """The slider and the answers at its step; nothing for a run that answered no prompt (yet)."""
    strip = read_film(run.film_path)
    if not strip.steps:
        return
    if len(strip.steps) > 1:
        st.select_slider(
            "Answers at step", strip.steps, key=f"film_{run.id}",
            help="At every evaluation the run answers the pinned prompts. Step 0 is the base model.",
        )  # fmt: skip
    step = int(st.session_state.get(f"film_{run.id}", strip.steps[-1]))
    st.caption(_summary(strip, step))
    grid = st.grid(min_column_width=380)
    for number in range(len(strip.pins)):
        with grid.cell(), st.container(border=True, height="stretch", gap="xsmall"):
            _answer(strip, number, step)


def _summary(strip: Film, step: int) -> str:
    known = [number for number, pin in enumerate(strip.pins) if pin.expected is not None]
    right = sum(matches_expected(strip.frames[step][number], strip.pins[number].expected) for number in known)
    before = strip.before(step)
    parts = [f"{right} of {format_plural(len(known), 'answer')} as expected" if known else ""]
    if before is None:
        parts.append("the base model, before the first step" if step == 0 else "the first answers of this run")
    else:
        parts.append(f":green-background[new] and :gray[~~gone~~] since step {before}")
    return " · ".join(part for part in parts if part)


def _answer(strip: Film, number: int, step: int) -> None:
    pin, now = strip.pins[number], strip.frames[step][number]
    st.caption(escape_text(pin.prompt, PROMPT_LIMIT) or "(an empty prompt)")
    before = strip.before(step)
    earlier = now if before is None else strip.frames[before][number]
    st.markdown(format_word_diff(word_diff(earlier[:ANSWER_LIMIT], now[:ANSWER_LIMIT])).strip() or ":gray[(no answer)]")
    if pin.expected is None:
        return
    since = strip.right_since(number, step)
    if since is not None:
        words = "as expected" if since == step else f"as expected since step {since}"
        st.caption(f":green[:material/check: {words}]")
        return
    missing = format_word_diff(
        word_diff(now[:ANSWER_LIMIT], pin.expected[:ANSWER_LIMIT]), new="orange-background", gone=None
    )
    st.caption(f"expected: {missing.strip()}")
