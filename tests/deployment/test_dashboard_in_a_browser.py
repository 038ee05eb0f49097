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
from sqlalchemy import NullPool, create_engine, insert

from lycia.deployment.identity import Invitation
from lycia.deployment.local import Federation
from lycia.deployment.operator import dashboard_url
from lycia.deployment.starting import start_run
from lycia.deployment.wire import InviteMessage
from lycia.runtime.apps import load_app
from lycia.storage import runs as kept_runs
from lycia.storage.database import sqlite_url
from lycia.storage.facts import StoredRun, record_to_json
from lycia.storage.tables import RECORDS
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
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
        odd.client._give_up_s = None  # as every node does, it waits for a coordinator that is gone

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
def browser() -> Iterator[Any]:
    """A browser."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=FOUND, args=sandbox)
        yield running
        running.close()


@pytest.fixture
def watched(federation: Federation, browser: Any) -> Iterator[Watched]:
    """A browser that has not been there before."""
    with ExitStack() as stack:
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


def test_the_page_says_that_the_coordinator_was_killed_and_goes_on_by_itself_when_it_is_back(
    federation: Federation, watched: Watched
):
    page = watched.page
    app = load_app(APP)
    run = start_run(federation.client, replace(app, plan=replace(app.plan, rounds=5000)))
    page.goto(dashboard_url(federation.client)[0])
    page.locator(f"[data-run='{run}']").get_by_role("link").click()
    link, rounds = page.locator("#link"), page.locator("details tr td:first-child")
    expect(link).to_have_text("live")
    page.locator("summary").click()
    expect(rounds.nth(3)).to_be_visible()
    federation.kill("coordinator")
    expect(link).to_have_text("reconnecting …")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".notice")).to_contain_text("the coordinator cannot be reached")
    known = int(rounds.first.inner_text())
    federation.restart("coordinator")
    expect(link).to_have_text("live")
    expect(rounds.filter(has_text=re.compile(f"^{known + 3}$"))).to_be_visible()
    told = [int(text) for text in rounds.all_inner_texts()]
    assert told == list(range(told[0], told[0] - len(told), -1))  # none twice, none left out
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1 .state")).to_contain_text("paused")


def test_an_address_that_names_no_run_says_so_and_the_skip_link_stays_where_it_is(
    federation: Federation, watched: Watched
):
    page = watched.page
    page.goto(dashboard_url(federation.client)[0])
    expect(page.locator(".tiles")).to_be_visible()
    for nowhere in ("#/runs/nosuch", "#/runs/%3Cscript%3E"):
        page.goto(f"{federation.url}/dashboard/{nowhere}")
        expect(page.locator("main")).to_contain_text("there is no run")
    page.keyboard.press("Tab")
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page.locator("main")).to_contain_text("there is no run")
    page.goto(f"{federation.url}/dashboard/#/runs/%E0%A4%A")
    expect(page.locator("tr[data-node]")).to_have_count(3)


# ------------------------------------------------------------------------------------------------- what others wrote

LONG = "W" * 62
HTML = "<img src=x onerror=document.title='run'><script>document.title='run'</script>"


def record_of(number: int, nodes: list[str], metrics: list[str]) -> dict[str, Any]:
    """A round that closed, but for the last one of its nodes."""
    figures = {name: dict.fromkeys(metrics, 0.5 + place / 50) | {"examples": 5.0} for place, name in enumerate(nodes)}
    scope = {"pooled": dict.fromkeys(metrics, 0.5 + number / 10_000), "nodes": figures}
    why = {"node": nodes[-1], "exchange": "train", "kind": "declined", "reason": f"{HTML} {LONG * 15}"}
    return {
        "round": number, "attempt": 0, "purpose": "train", "population": len(nodes), "norm_bound": 2.0, "missed": "",
        "opened_s": 1.0 + number, "ended_s": 2.0 + number, "asked": {"train": nodes}, "survivors": nodes[:-1],
        "evaluation": {"evaluate": scope}, "train_metrics": scope, "norms": dict.fromkeys(nodes[:-1], 1.0),
        "weights": dict.fromkeys(nodes[:-1], 10.0), "dropped": [why], "late": [], "phases_s": {"train": 0.5},
        "wall_s": 1.0, "bytes_up": 10**12, "bytes_down": 10**12,
    }  # fmt: skip


def keep_run(home: Path, run: str, records: list[dict[str, Any]]) -> None:
    """Put a run that is paused into a coordinator's database."""
    plan = load_app(APP).plan
    plan = replace(plan, rounds=len(records) + 1)
    reason = f"{HTML} {LONG * 4}"
    row = StoredRun(
        run, HTML + LONG, plan.to_json(), plan.digest, "[]", 1.0, {"lycia": LONG}, None, "paused", reason, 2.0
    )
    lines = [
        {"run": run, "number": number, "round": number, "attempt": 0, "json": record_to_json(record)}
        for number, record in enumerate(records)
    ]

    with create_engine(sqlite_url(home / "lycia.db"), poolclass=NullPool).begin() as connection:
        kept_runs.create_run(connection, row)
        connection.execute(insert(RECORDS), lines)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """One that runs nothing."""
    with Coordinator(tmp_path / "coordinator") as running:
        yield running


def test_what_others_wrote_is_never_run_nor_makes_the_page_wider_than_the_window(
    coordinator: Coordinator, browser: Any, tmp_path: Path
):
    nodes = [f"{place}{LONG}" for place in range(8)] + ["constructor", "__proto__"]
    metrics = ["constructor", f"{HTML}{LONG}", *(f"{place}{LONG * 3}" for place in range(10))]
    run = f"small-{LONG}-20261121-223354-3a21"
    coordinator.invite(nodes[0])
    with closing(RawNode(coordinator.invite(nodes[1]), tmp_path / "node")):
        pass
    coordinator.stop()
    keep_run(coordinator.home, run, [record_of(number, nodes, metrics) for number in range(5)])
    coordinator.start()
    with ExitStack() as stack:
        watched = Watched(browser, coordinator.url, stack)
        page = watched.page
        # Given a browser in which no chart learns that it has become narrower, or has not yet
        page.add_init_script("window.ResizeObserver = class { observe() {} disconnect() {} }")
        page.goto(dashboard_url(coordinator.client)[0])
        for view, seen in (("#/", "[data-run]"), (f"#/runs/{run}", ".panels canvas")):
            page.goto(f"{coordinator.url}/dashboard/{view}")
            expect(page.locator(seen).first).to_be_visible()
            for width in (1200, 400, 320):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                for plot in page.locator(".u-over:visible").all()[:3]:
                    plot.hover(position={"x": 60, "y": 60}, force=True)
                    assert page.evaluate("document.documentElement.scrollWidth") <= width
                page.screenshot(
                    path=tmp_path / f"{'run' if 'runs' in view else 'overview'}-{width}.png", full_page=True
                )
        expect(page.locator("td.reason").first).to_contain_text(HTML)
        expect(page.locator("tr[data-node=constructor] .number").first).to_have_text(re.compile(r"\d\.\d{4}"))
        assert page.locator("main img, main script").count() == 0
        assert page.title() != "run"
        expect(page.get_by_text("6 other metrics in the facts")).to_be_visible()
        watched.check()


def test_a_run_of_three_thousand_rounds_is_shown_whole(coordinator: Coordinator, browser: Any):
    coordinator.stop()
    keep_run(coordinator.home, "long", [record_of(number, ["a", "b", "c"], ["loss", "r2"]) for number in range(3000)])
    coordinator.start()
    with ExitStack() as stack:
        watched = Watched(browser, coordinator.url, stack)
        watched.page.goto(dashboard_url(coordinator.client)[0])
        watched.page.goto(f"{coordinator.url}/dashboard/#/runs/long")
        curve = watched.page.get_by_role(
            "img", name=re.compile(r"Loss by round, up to round 3000: .*all nodes 0\.7999")
        )
        expect(curve).to_be_visible()
        expect(watched.page.locator(".tile").nth(3)).to_contain_text(re.compile(r"66\.7 %.*6\s000 of 9\s000"))
        watched.check()
