"""Sign-in with a real OpenID Connect provider: two people in two browsers see nothing of each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.server import Server, free_port, start_server, stop_everything
from tests.browser.sign_in import ANN, BEN, EVE, run_provider, write_secrets
from toolkit.access.own_folder import prepare_person_folder
from toolkit.access.people import Person
from toolkit.config import Config
from toolkit.data.storage.open_table import open_table
from toolkit.runs.events import EventWriter
from toolkit.runs.run_dir import RunDir, create_run, list_runs

SECRET_RUN = "Ann's orders"
PATIENCE = 120_000
"""Milliseconds: three browsers draw whole pages, on a machine that may be busy."""


@pytest.fixture
def issuer() -> Iterator[str]:
    with run_provider() as found:
        yield found


@pytest.fixture
def app(issuer: str, tmp_path: Path) -> Iterator[Server]:
    save_dir = tmp_path / "experiments"
    save_dir.mkdir()
    port = free_port()
    secrets = write_secrets(tmp_path, issuer, f"http://localhost:{port}")
    running = start_server(save_dir, port, ["--secrets.files", str(secrets)], {"FTK_REQUIRE_TOKEN": "0"})
    yield running
    stop_everything(running)


def folder_of(app: Server, issuer: str, claims: dict[str, object]) -> Path:
    person = Person(issuer, str(claims["sub"]), str(claims["email"]), str(claims["name"]))
    return prepare_person_folder(app.save_dir.resolve(), person)


def finish_run(folder: Path, name: str) -> RunDir:
    """A run that has ended, as the app leaves it."""
    config = Config.model_validate({"save_dir": str(folder)})
    run = create_run(config, open_table(config.data, folder), name=name)
    run.claim_path.touch()
    with EventWriter(run.events_path) as events:
        events.append("started", pid=1)
        events.append("stopped", step=1)
    return run


def open_browser(browser: Browser) -> tuple[BrowserContext, Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE)
    context.route(re.compile("cdn"), lambda route: route.abort())  # the style of the provider's own pages
    return context, context.new_page()


def sign_in(page: Page, app: Server, claims: dict[str, object]) -> None:
    page.goto(app.url)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name=str(claims["sub"]), exact=True).click()
    page.wait_for_url(f"{app.url}/**")


def test_two_people_see_nothing_of_each_other(browser: Browser, app: Server, issuer: str) -> None:
    run = finish_run(folder_of(app, issuer, ANN), SECRET_RUN)
    ann_context, ann = open_browser(browser)
    sign_in(ann, app, ANN)
    ann.goto(f"{app.url}/configure?run={run.id}")
    expect(ann.get_by_text("Ann Archer")).to_be_visible(timeout=PATIENCE)
    ann.get_by_role("button", name="Export").click()
    with ann.expect_download() as waiting:
        ann.get_by_role("button", name="Download config.yml").click()
    download = waiting.value.url
    assert ann_context.request.get(download).ok
    ann.goto(f"{app.url}/runs?run={run.id}")
    expect(ann.get_by_role("combobox", name="Run").first).to_have_value(re.compile(f"^{SECRET_RUN}"), timeout=PATIENCE)

    ben_context, ben = open_browser(browser)
    sign_in(ben, app, BEN)
    expect(ben.get_by_text("Ben Baker")).to_be_visible(timeout=PATIENCE)
    assert ben_context.request.get(download).status == 403
    ben.goto(f"{app.url}/runs?run={run.id}")
    expect(ben.get_by_role("button", name="Use your own data")).to_be_visible(timeout=PATIENCE)
    assert SECRET_RUN not in ben.content() and run.id not in ben.inner_text("body")
    assert not list_runs(folder_of(app, issuer, BEN))

    assert httpx.get(download).status_code == 403, "nobody has signed in"
    assert httpx.put(f"{app.url}/_stcore/upload_file/one/two", content=b"x").status_code == 403

    eve_context, eve = open_browser(browser)
    sign_in(eve, app, EVE)
    expect(eve.get_by_role("heading", name="You can't use this app")).to_be_visible(timeout=PATIENCE)
    assert len(list(app.save_dir.glob("users/*"))) == 2, "she has no folder"
    eve.get_by_role("button", name="Sign out").click()
    eve.get_by_role("button", name="End session").click()
    expect(eve.get_by_role("button", name="Sign in")).to_be_visible(timeout=PATIENCE)
    for context in (ann_context, ben_context, eve_context):
        context.close()
