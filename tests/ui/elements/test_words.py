"""Labels of choices: Streamlit can't tell equal ones apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolkit.ui.elements.words import distinguish_labels


def test_equal_labels_get_the_end_of_their_value() -> None:
    runs = {"1806-mm8b": "tickets", "1806-kdb5": "tickets", "1757-bvkt": "orders"}
    assert list(distinguish_labels(runs).values()) == ["tickets (mm8b)", "tickets (kdb5)", "orders"]


@given(st.dictionaries(st.text("ab", max_size=6), st.sampled_from(["x", "x (aaaa)", "x (aaaa) (2)", "y"])))
def test_labels_are_different_in_any_case(labels: dict[str, str]) -> None:
    found = distinguish_labels(labels)
    assert list(found) == list(labels)
    assert len(set(found.values())) == len(labels)
    assert all(found[value].startswith(label) for value, label in labels.items())
