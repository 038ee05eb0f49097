"""The dashboard in a real browser, over a real federation: what an operator sees there, and presses."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from lycia.deployment.identity import Invitation
from lycia.deployment.local import Federation
from lycia.deployment.operator import dashboard_url
from lycia.deployment.starting import start_run
from lycia.deployment.wire import InviteMessage
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP
from tests.deployment.raw_node import Draft, RawNode

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect
FOUND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FOUND is None, reason="there is no Chromium on this machine"),
    pytest.mark.skipif(os.name != "posix", reason="the federation's processes are ended by signals"),
]
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


class Watched:
    """A page, and all that a browser holds against it."""

    def __init__(self, browser: Any, origin: str, stack: ExitStack) -> None:
        context = browser.new_context(ignore_https_errors=True, viewport={"width": 1200, "height": 900})
        stack.callback(context.close)
        context.set_default_timeout(PATIENCE_MS)
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.complaints.append(said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.add("{0.scheme}://{0.netloc}".format(urlsplit(request.url))))
        self.origin = origin

    def check(self) -> None:
        """Check that the page asked nobody else, and that the browser forbade it nothing."""
        assert self.asked == {self.origin}
        assert self.complaints == []


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """Two nodes that work, and one of which every update is full of NaN."""
    over = threading.Event()
    with Federation(tmp_path / "home", APP, ["--silence", "10"]) as running, ExitStack() as stack:
        for name in ("node-0", "node-1"):
            running.add_node(name, name)
        said = running.client.post("/v1/invitations", InviteMessage(name="odd"))
        odd = stack.enter_context(closing(RawNode(Invitation.from_text(said["invitation"]), tmp_path / "odd")))

        def play() -> None:
            while not over.is_set():
                ask = odd.poll(0.2)
                if ask is not None:
                    odd.answer(ask, lambda draft: Draft.file(draft, value=float("nan")))

        playing = threading.Thread(target=play)
        playing.start()
        stack.callback(playing.join)
        stack.callback(over.set)
        running.wait_nodes(3)
        yield running


@pytest.fixture
def watched(federation: Federation) -> Iterator[Watched]:
    """A browser that has not been there before."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver, ExitStack() as stack:
        browser = driver.chromium.launch(executable_path=FOUND, args=sandbox)
        stack.callback(browser.close)
        yield Watched(browser, federation.url, stack)


def state_of(federation: Federation, run: str) -> str:
    """What the coordinator says of a run."""
    return str(federation.client.get(f"/v1/runs/{run}")["state"])


def test_an_operator_comes_in_sees_the_federation_live_and_has_a_run_pause_go_on_and_stop(
    federation: Federation, watched: Watched, tmp_path: Path
):
    page = watched.page
    # Without a code the page says how to get one, and shows nothing
    page.goto(federation.url)
    expect(page.locator(".door")).to_contain_text("lycia dashboard")
    assert page.locator("tr[data-node]").count() == 0
    # With one it shows the nodes, and the code is gone from the address
    page.goto(dashboard_url(federation.client)[0])
    expect(page.locator("tr[data-node]")).to_have_count(3)
    expect(page.locator("tr[data-node=node-0]")).to_contain_text("there")
    assert "code" not in page.url
    assert not page.evaluate("document.cookie")
    # A run appears by itself, and its rounds go by
    app = load_app(APP)
    run = start_run(federation.client, replace(app, plan=replace(app.plan, rounds=5000)))
    card = page.locator(f"[data-run='{run}']")
    expect(card).to_contain_text(re.compile(r"round ([3-9]|\d\d+) of 5\s?000"))
    page.screenshot(path=tmp_path / "overview.png", full_page=True)
    # In the run itself there are curves, its nodes, and why one of them does not count
    card.get_by_role("link").click()
    expect(page.locator("figure:has(canvas)").first).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Accuracy by round"))).to_be_visible()
    quarantined = page.locator("tr[data-kind=quarantined]").first
    expect(quarantined).to_contain_text("odd")
    expect(quarantined).to_contain_text(re.compile("finite|NaN"))
    expect(page.locator("tr[data-node=node-1] .number").first).to_have_text(re.compile(r"\d\.\d{4}"))
    # Pause and resume do at once what they say
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1 .state")).to_contain_text("paused")
    assert state_of(federation, run) == "paused"
    expect(page.locator(".lead")).to_contain_text("paused by operator")
    page.screenshot(path=tmp_path / "paused.png", full_page=True)
    rounds = page.locator(".tile").first.locator(".big")
    stood_at = rounds.inner_text()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("h1 .state")).to_contain_text("running")
    assert state_of(federation, run) == "running"
    expect(rounds).not_to_have_text(stood_at)
    # To stop is asked twice; the keyboard is enough for it
    page.get_by_role("button", name="Stop …").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Let it be").click()
    assert state_of(federation, run) == "running"
    page.get_by_role("button", name="Stop …").click()
    page.get_by_role("button", name="Stop it").click()
    expect(page.locator("h1 .state")).to_contain_text("stopped")
    assert state_of(federation, run) == "stopped"
    expect(page.get_by_role("button", name="Resume")).to_be_hidden()
    with page.expect_download() as download:
        page.get_by_role("link", name="↓ Model").click()
    assert download.value.path().stat().st_size > 0
    watched.check()


def test_the_page_fits_a_telephone_by_day_and_by_night_and_signs_out(
    federation: Federation, watched: Watched, tmp_path: Path
):
    app = load_app(APP)
    run = start_run(federation.client, replace(app, plan=replace(app.plan, rounds=4)))
    page = watched.page
    page.goto(dashboard_url(federation.client)[0])
    expect(page.locator(f"[data-run='{run}'] .state")).to_contain_text("finished")
    for view in ("#/", f"#/runs/{run}"):
        page.goto(f"{federation.url}/dashboard/{view}")
        if view != "#/":
            expect(page.locator("figure:has(canvas)").first).to_be_visible()
        for scheme in ("light", "dark"):
            for width in (400, 1200):
                page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                name = f"{'run' if 'runs' in view else 'overview'}-{scheme}-{width}.png"
                page.screenshot(path=tmp_path / name, full_page=True)
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator(".door")).to_be_visible()
    page.reload()
    expect(page.locator(".door")).to_be_visible()
    watched.check()
