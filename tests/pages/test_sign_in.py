"""Pages for people who have signed in: each in a folder of their own, and no path leads to another's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.runtime.secrets import AttrDict
from streamlit.testing.v1 import AppTest

from tests.pages.conftest import ROOT, Stage
from toolkit.access.own_folder import prepare_person_folder
from toolkit.access.people import Person
from toolkit.errors import SignInError
from toolkit.runs.run_dir import RunDir, list_runs
from toolkit.ui.frame import page as page_module
from toolkit.ui.people.signed_in import is_sign_in_configured, own_folder

ISSUER = "https://id.example"
ANN, BEN = (Person(ISSUER, str(n), f"{name}@example.com", name) for n, name in enumerate(("ann", "ben")))


class Secrets(dict[str, Any]):
    """Stands for `st.secrets`."""

    def load_if_toml_exists(self) -> bool:
        return True


class User(dict[str, Any]):
    """Stands for `st.user`."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


SignIn = Callable[[Person | None], Path]


@pytest.fixture
def sign_in(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SignIn]:
    """Let the pages be drawn for a person, whose folder is returned; None signs out."""
    monkeypatch.setenv("FTK_SPARE", "0")
    people = {"allow": ["@example.com"], "shared_folders": [str(workspace / "shared")]}
    secrets = Secrets(auth=AttrDict({"client_id": "x"}), people=AttrDict(people))
    monkeypatch.setattr(st, "secrets", secrets)
    is_sign_in_configured.cache_clear()

    def become(person: Person | None) -> Path:
        claims: dict[str, Any] = {"is_logged_in": person is not None}
        if person is not None:
            claims |= {"iss": person.issuer, "sub": person.subject, "email": person.email, "email_verified": True}
        monkeypatch.setattr(st, "user", User(claims))
        return prepare_person_folder(workspace, person) if person else workspace

    yield become
    is_sign_in_configured.cache_clear()
    for folder in (workspace / "users").glob("*"):
        page_module.get_supervisor(str(folder)).stop()


def open_page(name: str, run: RunDir | None = None) -> AppTest:
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    if run is not None:
        app.query_params["run"] = run.id
    app.run().switch_page(f"pages/{name}.py").run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    shown = [*app.markdown, *app.error, *app.warning, *app.caption, *app.title]
    return "\n".join(str(element.value) for element in shown)


def test_a_run_is_seen_by_its_owner_only(sign_in: SignIn, workspace: Path) -> None:
    run = Stage(sign_in(ANN)).run(("started", {"pid": 1}), ("stopped", {"step": 1}), name="Ann only")
    assert run.id in [box.value for box in open_page("runs", run).selectbox]
    folder = sign_in(BEN)
    for name in ("runs", "playground"):
        app = open_page(name, run)
        assert not app.error, "nothing is wrong: there is no such run"
        assert "Ann only" not in words(app) and run.id not in words(app)
        assert not [box for box in app.selectbox if run.id in map(str, box.options)]
    assert not list_runs(folder) and not list_runs(workspace)


def test_who_has_not_signed_in_or_is_not_on_the_list_sees_no_page(sign_in: SignIn) -> None:
    sign_in(None)
    app = open_page("runs")
    assert [title.value for title in app.title] == ["Sign in"] and [b.label for b in app.button] == ["Sign in"]
    with pytest.raises(SignInError, match="not signed in"):
        own_folder()
    sign_in(Person(ISSUER, "9", "eve@other.example", "Eve"))
    app = open_page("data")
    assert [title.value for title in app.title] == ["You can't use this app"]
    assert [button.label for button in app.button] == ["Sign out"] and "not on the list" in app.error[0].value


def test_a_path_into_another_folder_is_refused_wherever_it_is_given(sign_in: SignIn, workspace: Path) -> None:
    theirs = sign_in(ANN)
    secret = theirs / "uploads" / "secret.csv"
    secret.parent.mkdir(parents=True, exist_ok=True)
    secret.write_text("question,answer\nannsecret,1\nannsecret2,2\n")
    (workspace / "shared").mkdir()
    (workspace / "shared" / "all.csv").write_text("question,answer\na,1\nb,2\n")
    own = sign_in(BEN)

    app = open_page("data")
    app.segmented_control[0].set_value("path").run()
    typed = next(box for box in app.text_input if box.label.startswith("Path to"))
    typed.set_value(str(secret))
    next(button for button in app.button if button.label == "Open").click().run()
    assert "is not in a folder that you may use" in words(app) and "annsecret" not in words(app)

    app = open_page("configure")
    given = f"save_dir: {theirs}\ndata:\n  path: {secret}\nmodel:\n  hf_model_ckpt: {theirs}\n"
    app.button(key="open_import").click().run()
    app.button(key="open_import").click()
    app.text_area(key="import_text").set_value(given)
    app.button(key="import_apply").click().run()
    refused = words(app)
    assert "is not your output folder" in refused and refused.count("is not in a folder that you may use") == 2
    draft = (own / "draft.json").read_text() if (own / "draft.json").exists() else ""
    assert str(theirs) not in draft, "nothing of the file was taken over"
