"""The rules that an answer must keep, and the gate: listed, added, removed; kept for the whole workspace."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.evaluation import evaluation_dir
from toolkit.evaluation.statistics.measures import GATE_MEASURES, MEASURES_BY_NAME
from toolkit.evaluation.statistics.pass_rules import Gate, RuleSet, parse_pass_rules, rule_title
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.elements.words import format_share
from toolkit.ui.workspace import workspace

RULE_KIND_LABELS = {
    "contains": "contains a text",
    "regex": "matches a pattern",
    "json_schema": "fits a JSON schema",
    "length": "has a length",
}
NO_GATE = "no gate"


def draw_rule_editor() -> RuleSet:
    """Draw the rules and the gate; returns them as they stand."""
    rules = evaluation_dir.read_saved_rules(workspace.current_save_dir())
    for at, rule in enumerate(rules.rules):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(
                f"The answer {escape_text(rule_title(rule))} :gray[in {format_share(rule.at_least)} of the rows]",
                width="content",
            )
            if st.button("", icon=":material/delete:", type="tertiary", key=f"drop_rule_{at}", help="Remove this rule"):
                kept = rules.rules[:at] + rules.rules[at + 1 :]
                _save_rules(rules.model_copy(update={"rules": kept}))
    if not rules.rules:
        st.caption("No rules yet. A rule says what every answer must or must not do.")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        with st.popover("Add a rule", icon=":material/add:"):
            _draw_rule_form(rules)
        _choose_gate(rules)
    return rules


def _draw_rule_form(rules: RuleSet) -> None:
    kind = (
        st.selectbox("The answer …", list(RULE_KIND_LABELS), format_func=RULE_KIND_LABELS.__getitem__, key="rule_kind")
        or "contains"
    )
    made: dict[str, Any] = {"kind": kind}
    if kind == "contains":
        made["text"] = st.text_input("Text", key="rule_text", max_chars=1_000)
        made["ignore_case"] = st.toggle("Ignore case", key="rule_case")
    elif kind == "regex":
        made["pattern"] = st.text_input("Pattern (regular expression)", key="rule_pattern", max_chars=1_000)
    elif kind == "json_schema":
        made["json_schema"] = st.text_area(
            "JSON schema", key="rule_schema", height=160, placeholder='{"type": "object"}'
        )
    else:
        made["unit"] = st.segmented_control("Counted in", ["characters", "words"], default="characters", required=True,
                                            key="rule_unit")  # fmt: skip
        made["least"] = st.number_input("At least", 0, value=None, key="rule_least", placeholder="no bound")
        made["most"] = st.number_input("At most", 0, value=None, key="rule_most", placeholder="no bound")
    made["negate"] = st.toggle("It must not", key="rule_negate")
    percent = st.slider("In how many of the rows", 0, 100, 100, 5, format="%d %%", key="rule_share")
    made["at_least"] = percent / 100
    if st.button("Add it", type="primary", key="add_rule"):
        try:
            _save_rules(add_rule(rules, made))
        except ToolkitError as error:
            show_error(error)


def add_rule(rules: RuleSet, made: dict[str, Any]) -> RuleSet:
    """The rules and one more. Raises ToolkitError in words."""
    if made["kind"] == "json_schema":
        try:
            made = {**made, "json_schema": json.loads(made["json_schema"] or "")}
        except (ValueError, RecursionError) as error:
            raise ToolkitError(f"The schema is no JSON: {error}.", "Correct it.") from error
    return parse_pass_rules({**rules.model_dump(), "rules": [*rules.model_dump()["rules"], made]})


def _choose_gate(rules: RuleSet) -> None:
    now = NO_GATE if rules.gate is None else rules.gate.improves or NO_GATE
    options = [NO_GATE, *GATE_MEASURES]
    chosen = st.selectbox(
        "Promote only if this is better than noise, and every rule is kept", options, index=options.index(now),
        format_func=lambda name: MEASURES_BY_NAME[name].title if name in MEASURES_BY_NAME else "No gate", key=f"gate_{now}", width=420,
    )  # fmt: skip
    if chosen and chosen != now:
        _save_rules(rules.model_copy(update={"gate": None if chosen == NO_GATE else Gate(improves=chosen)}))


def _save_rules(rules: RuleSet) -> None:
    evaluation_dir.save_rules(workspace.current_save_dir(), rules)
    st.rerun()
