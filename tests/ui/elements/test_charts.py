"""Charts: the traces that are drawn, and a stable revision that keeps the zoom while points arrive."""

from __future__ import annotations

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
    for written in (figure, marked, small, charts.overlay_chart({"a": [(1, 1.0)]}, "loss", "s")):
        go.Figure(written.to_dict())  # plotly checks every property
    st.text(str(marked.layout.shapes[0].x0))


def test_charts_have_the_expected_traces_and_survive_plotly_validation() -> None:
    names, most, revision, kind, label, colors, mark = drawn(losses)
    assert names == "Training, raw, Training, Test, Best checkpoint"
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
