"""Editor of the rules for answers and of the gate. Both apply to the whole workspace."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from toolkit.errors import ToolkitError
from toolkit.evaluation import evaluation_dir
from toolkit.evaluation.rule_process import parse_checked_rules
from toolkit.evaluation.statistics.measures import GATE_MEASURES, MEASURES_BY_NAME
from toolkit.evaluation.statistics.pass_rules import Gate, RuleSet, rule_title
from toolkit.system.printable import format_share
from toolkit.ui.elements.error_boundary import show_error
from toolkit.ui.elements.escape import escape_text
from toolkit.ui.workspace import workspace

RULE_KIND_LABELS = {
    "contains": "contains text",
    "regex": "matches a pattern",
    "json_schema": "matches a JSON schema",
    "length": "has a length within limits",
}
NO_GATE = "no gate"


def draw_rule_editor() -> RuleSet:
    """Draw the rules and the gate; return the saved ones."""
    rules = evaluation_dir.read_saved_rules(workspace.current_save_dir())
    for number, rule in enumerate(rules.rules):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(
                f"The answer {escape_text(rule_title(rule))} "
                f":gray[in at least {format_share(rule.at_least)} of the rows]",
                width="content",
            )
            if st.button(
                "", icon=":material/delete:", type="tertiary", key=f"drop_rule_{number}", help="Remove this rule"
            ):
                kept = rules.rules[:number] + rules.rules[number + 1 :]
                _save_rules(rules.model_copy(update={"rules": kept}))
    if not rules.rules:
        st.caption("No rules yet. A rule states what an answer must or must not contain.")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        with st.popover("Add rule", icon=":material/add:"):
            _draw_rule_form(rules)
        _choose_gate(rules)
    return rules


def _draw_rule_form(rules: RuleSet) -> None:
    kind = (
        st.selectbox("The answer …", list(RULE_KIND_LABELS), format_func=RULE_KIND_LABELS.__getitem__, key="rule_kind")
        or "contains"
    )
    rule: dict[str, Any] = {"kind": kind}
    if kind == "contains":
        rule["text"] = st.text_input("Text", key="rule_text", max_chars=1_000)
        rule["ignore_case"] = st.toggle("Ignore case", key="rule_case")
    elif kind == "regex":
        rule["pattern"] = st.text_input("Regular expression", key="rule_pattern", max_chars=1_000)
    elif kind == "json_schema":
        rule["json_schema"] = st.text_area(
            "JSON schema", key="rule_schema", height=160, placeholder='{"type": "object"}'
        )
    else:
        rule["unit"] = st.segmented_control(
            "Unit", ["characters", "words"], default="characters", required=True, key="rule_unit"
        )
        rule["least"] = st.number_input("Minimum length", 0, value=None, key="rule_least", placeholder="No limit")
        rule["most"] = st.number_input("Maximum length", 0, value=None, key="rule_most", placeholder="No limit")
    rule["negate"] = st.toggle("Invert: the answer must not match", key="rule_negate")
    percent = st.slider("Required share of the rows", 0, 100, 100, 5, format="%d %%", key="rule_share")
    rule["at_least"] = percent / 100
    if st.button("Add", type="primary", key="add_rule"):
        try:
            _save_rules(add_rule(rules, rule))
        except ToolkitError as error:
            show_error(error)


def add_rule(rules: RuleSet, rule: dict[str, Any]) -> RuleSet:
    """Return the rules with one more. Raises ToolkitError: the rule is invalid."""
    if rule["kind"] == "json_schema":
        try:
            rule = {**rule, "json_schema": json.loads(rule["json_schema"] or "")}
        except (ValueError, RecursionError) as error:
            raise ToolkitError(f"The schema is not valid JSON: {error}.", "Correct the JSON.") from error
    return parse_checked_rules({**rules.model_dump(), "rules": [*rules.model_dump()["rules"], rule]})


def _choose_gate(rules: RuleSet) -> None:
    current = NO_GATE if rules.gate is None else rules.gate.improves or NO_GATE
    options = [NO_GATE, *GATE_MEASURES]
    chosen = st.selectbox(
        "Gate: pass only if this measure is better and all rules pass",
        options,
        index=options.index(current),
        format_func=lambda name: MEASURES_BY_NAME[name].title if name in MEASURES_BY_NAME else "No gate",
        key=f"gate_{current}",
        width=420,
    )
    if chosen and chosen != current:
        _save_rules(rules.model_copy(update={"gate": None if chosen == NO_GATE else Gate(improves=chosen)}))


def _save_rules(rules: RuleSet) -> None:
    evaluation_dir.save_rules(workspace.current_save_dir(), rules)
    st.rerun()
