"""How often live parts of a page refresh."""

from __future__ import annotations

import pytest

from toolkit.ui.frame import viewers


def test_the_more_tabs_the_slower_they_refresh_and_closed_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "_seen", {})
    factors = []
    for number in range(100):
        context = type("Context", (), {"session_id": str(number)})
        monkeypatch.setattr(viewers, "get_script_run_ctx", lambda suppress_warning, context=context: context)
        factors.append(viewers.slow_down_refreshes())
        assert viewers.slow_down_refreshes() == factors[-1], "a tab counts once"
    assert (factors[3], factors[4], factors[8], factors[16], factors[59], factors[99]) == (1, 2, 4, 8, 16, 16)
    monkeypatch.setattr(viewers, "is_closed", lambda name: name != "7")
    assert viewers.slow_down_refreshes() == 1
    assert list(viewers._seen) == ["7"]
