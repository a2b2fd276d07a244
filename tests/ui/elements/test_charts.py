"""Charts: the traces that are drawn, and a stable revision that keeps the zoom while points arrive."""

from __future__ import annotations

import ast
from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from toolkit.ui.elements import charts


def drawn(script: Callable[[], None]) -> list[str]:
    app = AppTest.from_function(script, default_timeout=20).run()
    assert not app.exception
    return [entry.value for entry in app.text]


def losses() -> None:
    import plotly.graph_objects as go
    import streamlit as st

    from toolkit.ui.elements import charts

    curves = {"loss": [(step, 1 / step) for step in range(1, 5000)], "eval_loss": [(10, 0.5)]}
    figure = charts.loss_chart(curves, 0.6, "run-1", best=(10, 0.5))
    st.text(", ".join(str(trace.name) for trace in figure.data))
    st.text(str(max(len(trace.x) for trace in figure.data)))
    st.text(str(figure.layout.uirevision))
    st.text(str(charts.loss_chart(curves, 0.0, "run-1", log_scale=True).layout.yaxis.type))
    st.text(str(charts.overlay_chart({"<b>r</b> %{x}": [(1, 1.0)]}, "loss", "s").data[0].name))
    st.text(str(len(charts.series_colors())))
    small = charts.small_chart(curves["loss"], 2.0, ".3g", "run-1")
    marked = charts.loss_chart(curves, 0.6, "run-1", mark=(7, "outputs below: step 7"))
    axes = [("<b>r</b> %{x}", [0, 1], ["8", "32"]), ("Prompt", [1, 0], ["<a>", "b"])]
    parallel = charts.parallel_chart(axes, ("Exact match", [0.2, 0.9], ".0%"), lower=False)
    for written in (figure, marked, small, parallel, charts.overlay_chart({"a": [(1, 1.0)]}, "loss", "s")):
        go.Figure(written.to_dict())  # plotly checks every property
    st.text(str(marked.layout.shapes[0].x0))


def test_charts_have_the_expected_traces_and_survive_plotly_validation() -> None:
    names, most, revision, kind, label, colors, mark = drawn(losses)
    assert names == "Training (not smoothed), Training, Test, Best checkpoint"
    assert int(most) <= 500
    assert revision == "run-1"
    assert kind == "log"
    assert "<" not in label
    assert "%{" not in label
    assert int(colors) >= 6
    assert mark == "7"


def test_a_length_at_the_limit_is_not_colored_as_truncated() -> None:
    colors = [list(charts.length_chart([8, 9, 10, 11], [1, 1, 1], limit).data[0].marker.color) for limit in (9, 8)]
    assert colors[0][0] == colors[0][1] != colors[0][2]
    assert colors[1][0] != colors[1][1]


def results_of_an_evaluation() -> None:
    import plotly.graph_objects as go
    import streamlit as st

    from toolkit.ui.elements import result_charts

    one = result_charts.ShownDifference("<b>Loss</b>", -0.2, None, None, "−0.2", "worse")
    two = result_charts.ShownDifference("Exact match", 10.8, -5.3, 26.1, "+10.8 points (−5.3 to +26.1)", "noise")
    differences = result_charts.draw_interval_chart([one, two], "points")
    labels = ["<a href=x>", "%{x}", "long " * 30, "long " * 30 + "er"]
    counts = [[3, 0, 1, 0, 0], [0] * 5, [0, 0, 2, 0, 2], [0, 0, 0, 0, 1]]
    confusion = result_charts.draw_confusion_chart(labels, counts)
    for figure in (differences, confusion):
        go.Figure(figure.to_dict())
    low, high = differences.layout.xaxis.range
    st.text(str(low < -5.3 and high > 26.1))
    st.text(str(differences.data[0].error_x.visible))
    st.text(repr([[list(line) for line in trace.text] for trace in confusion.data]))
    st.text(repr([trace.marker.color for trace in differences.data]))
    st.text(" ".join(confusion.layout.xaxis.ticktext))


def test_the_charts_of_an_evaluation_are_valid_and_mark_mistakes() -> None:
    in_range, without_interval, texts, colors, ticks = drawn(results_of_an_evaluation)
    assert (in_range, without_interval) == ("True", "False")
    correct, mistakes = ast.literal_eval(texts)
    assert correct[0] == ["3", "", "", "", ""] and mistakes[0] == ["", "", "1", "", ""]
    assert mistakes[2][4] == "2", "an answer that is no label is a mistake"
    assert len(set(ast.literal_eval(colors))) == 2
    assert "<" not in ticks and "%{" not in ticks
