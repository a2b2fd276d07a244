"""Sample outputs during training: a slider over the evaluated steps, and the answer to each pinned prompt there."""

from __future__ import annotations

import streamlit as st

from toolkit.evaluation.statistics.word_diff import diff_words
from toolkit.runs.run_dir import RunDir
from toolkit.system.printable import format_plural
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.marked_markdown import mark_changes, mark_edits
from toolkit.ui.runs.film import SampleOutputs, matches_expected, read_sample_outputs

MAX_PROMPT_CHARACTERS = 400
MAX_ANSWER_CHARACTERS = 3000
"""Of each text, so that two of them can be compared and shown on every refresh of the page."""


def chosen_sample_step(run: RunDir) -> int | None:
    """Return the step that the slider is set to, or None for a run without sample outputs.

    The slider follows the newest step until the user moves it away from there. `draw_sample_outputs` draws it.
    """
    steps = read_sample_outputs(run.film_path).steps
    if not steps:
        return None
    chosen = st.session_state.get(_choice_key(run.id))
    return int(chosen) if chosen in steps else steps[-1]


def _choice_key(run_id: str) -> str:
    return f"film_choice_{run_id}"


def _keep_choice(run_id: str, slider: str, newest: int) -> None:
    """Keep the step that the user chose. Only the user's own moves count, never what a slow browser still sends."""
    step = st.session_state[slider]
    st.session_state[_choice_key(run_id)] = None if step == newest else step


def draw_sample_outputs(run: RunDir) -> None:
    """Draw the slider and the answers at its step; nothing for a run without sample outputs."""
    outputs, step = read_sample_outputs(run.film_path), chosen_sample_step(run)
    if step is None:
        return
    st.header("Sample outputs during training", anchor=False)
    if len(outputs.steps) > 1:
        newest = outputs.steps[-1]
        key = f"film_{run.id}_{newest}"
        st.select_slider(
            "Outputs at step",
            outputs.steps,
            value=step,
            key=key,
            on_change=_keep_choice,
            args=(run.id, key, newest),
            help="The run answers the pinned prompts at every evaluation. Step 0 is the base model before training.",
        )
    st.markdown(f":small[{_summary(outputs, step)}]")  # not a caption, which fades colors below their contrast
    grid = st.grid(min_column_width=380)
    for number in range(len(outputs.prompts)):
        with grid.cell(), st.container(border=True, height="stretch", gap="xsmall"):
            _draw_answer(outputs, number, step)


def _summary(outputs: SampleOutputs, step: int) -> str:
    known = [number for number, prompt in enumerate(outputs.prompts) if prompt.expected is not None]
    correct = sum(matches_expected(outputs.frames[step][number], outputs.prompts[number].expected) for number in known)
    previous = outputs.previous_step(step)
    parts = [f"{correct} of {format_plural(len(known), 'answer')} correct"] if known else []
    if previous is None:
        parts.append("base model, before training" if step == 0 else "first sample of this run")
    else:
        parts.append(f"changes since step {previous}: :green-background[added], :gray[~~removed~~]")
    return " · ".join(parts)


def _draw_answer(outputs: SampleOutputs, number: int, step: int) -> None:
    prompt, answer = outputs.prompts[number], outputs.frames[step][number][:MAX_ANSWER_CHARACTERS]
    st.caption(escape_text(prompt.prompt, MAX_PROMPT_CHARACTERS) or "(empty prompt)")
    previous = outputs.previous_step(step)
    earlier = answer if previous is None else outputs.frames[previous][number][:MAX_ANSWER_CHARACTERS]
    st.markdown(mark_edits(*diff_words(earlier, answer)).strip() or ":gray[(empty answer)]")
    if prompt.expected is None:
        return
    since = outputs.correct_since(number, step)
    if since is not None:
        label = "Correct" if since == step else f"Correct since step {since}"
        st.markdown(f":small[:green[:material/check: {label}]]")
        return
    missing, _ = diff_words(prompt.expected[:MAX_ANSWER_CHARACTERS], answer)
    st.caption(f"Expected: {mark_changes(missing, 'orange').strip()}")
