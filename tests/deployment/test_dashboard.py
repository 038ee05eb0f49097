"""The dashboard without a browser: codes, cookies, whose page may use them, files, and streams that go on."""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lycia.core.events import Opened
from lycia.deployment.coordinator import glances, sessions, watching
from lycia.deployment.coordinator.dashboard import OWN_PAGE
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.sessions import Caller, Sessions
from lycia.deployment.coordinator.watching import Watching
from lycia.deployment.identity import Identity, client_context
from lycia.deployment.node.client import Client
from lycia.deployment.operator import dashboard_url, follow
from lycia.deployment.starting import start_run
from lycia.deployment.wire import Problem
from lycia.errors import AccessError
from lycia.runtime.apps import load_app
from lycia.storage import runs as kept_runs
from lycia.storage.database import Database, sqlite_url
from lycia.storage.facts import StoredRun
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode

PAGE = resources.files("lycia.deployment.coordinator").joinpath("page")
OURS = {OWN_PAGE: "1"}


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.at_s = 1000.0

    def now_s(self) -> float:
        """Now."""
        return self.at_s


# ---------------------------------------------------------------------------------------------------- codes and cookies


def test_a_code_gives_a_cookie_once_and_within_a_minute():
    clock = Clock()
    door = Sessions(b"secret", clock.now_s)
    code, old = door.code("ada"), door.code("ada")
    assert door.visitor(door.redeem(code)) == Caller("ada", "operator")
    clock.at_s += sessions.CODE_S + 1
    for bad in (code, old, "", "made up"):
        with pytest.raises(AccessError, match="the code is not good") as refused:
            door.redeem(bad)
        assert "lycia dashboard" in refused.value.do


def test_a_cookie_lasts_a_working_day_and_over_restarts_and_is_no_bearer():
    clock = Clock()
    door = Sessions(b"secret", clock.now_s)
    cookie = door.redeem(door.code("ada"))
    again = Sessions(b"secret", clock.now_s)
    clock.at_s += sessions.COOKIE_S - 1
    assert again.visitor(cookie) == Caller("ada", "operator")
    assert again.caller(cookie) is None
    assert Sessions(b"another secret", clock.now_s).visitor(cookie) is None
    clock.at_s += 2
    assert again.visitor(cookie) is None


@pytest.mark.parametrize("name", ["operator", "cookie", "dashboard", "node"])
def test_no_bearer_is_a_cookie_whatever_its_holder_is_called(name: str, tmp_path: Path):
    door, key = Sessions(b"secret", Clock().now_s), Identity.at(tmp_path / "key.pem")
    nonce = door.challenge(name)
    signature = key.sign("lycia session", name.encode(), nonce.encode())
    bearer = door.open(name, nonce, signature, key.public, "node")
    assert door.visitor(bearer) is None
    assert door.visitor(bearer.replace("|node", "")) is None


def test_codes_that_nobody_uses_take_no_more_room_than_they_may():
    door = Sessions(b"secret", Clock().now_s)
    for _ in range(sessions._MOST_CODES + 100):
        door.code("ada")
    assert len(door._codes) <= sessions._MOST_CODES


# ------------------------------------------------------------------------------------------------------------- browsers


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """One for each test."""
    with Coordinator(tmp_path / "coordinator") as running:
        yield running


@pytest.fixture
def browser(coordinator: Coordinator) -> Iterator[httpx2.Client]:
    """A browser that nobody has signed in."""
    with plain(coordinator) as made:
        yield made


def plain(coordinator: Coordinator) -> httpx2.Client:
    """What has neither key nor cookie."""
    return httpx2.Client(base_url=coordinator.url, verify=client_context(coordinator.client.certificate))


def code_of(coordinator: Coordinator) -> str:
    """A new code, out of the address that the command line opens."""
    url, _ = dashboard_url(coordinator.client)
    return url.partition("#code=")[2]


def signed_in(coordinator: Coordinator, browser: httpx2.Client) -> httpx2.Client:
    """The same browser, with its cookie."""
    response = browser.post("/v1/dashboard/session", json={"code": code_of(coordinator)}, headers=OURS)
    assert response.status_code == 200, response.text
    return browser


def problem(response: httpx2.Response, status: int) -> Problem:
    """What is wrong, in words."""
    assert response.status_code == status, response.text
    return Problem.model_validate_json(response.content)


def test_the_address_names_the_page_and_the_certificate_can_be_compared(coordinator: Coordinator):
    url, fingerprint = dashboard_url(coordinator.client)
    assert re.fullmatch(rf"{coordinator.url}/dashboard/#code=[\w-]{{32}}", url)
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", fingerprint)


def test_a_browser_that_brought_a_code_sees_and_does_what_its_operator_may(
    coordinator: Coordinator, browser: httpx2.Client
):
    assert browser.get("/v1/dashboard/session").json() == {"name": None}
    assert problem(browser.get("/v1/runs"), 401)
    response = browser.post("/v1/dashboard/session", json={"code": code_of(coordinator)}, headers=OURS)
    for word in ("__Host-lycia-", "HttpOnly", "Secure", "SameSite=strict", "Path=/", f"Max-Age={8 * 3600}"):
        assert word in response.headers["set-cookie"]
    assert "Domain" not in response.headers["set-cookie"]
    assert browser.get("/v1/dashboard/session").json() == {"name": "operator"}
    assert [node["name"] for node in browser.get("/v1/nodes").json()["nodes"]] == ["operator"]
    run = start_run(coordinator.client, load_app(APP))
    assert browser.post(f"/v1/runs/{run}/pause", headers=OURS).json()["state"] == "paused"
    assert browser.delete("/v1/dashboard/session", headers=OURS).status_code == 200
    assert problem(browser.get("/v1/runs"), 401)


def test_a_code_is_used_up_by_its_first_browser_and_a_cookie_outlives_a_restart(
    coordinator: Coordinator, browser: httpx2.Client
):
    code = code_of(coordinator)
    signed = signed_in(coordinator, browser)
    assert signed.post("/v1/dashboard/session", json={"code": code}, headers=OURS).status_code == 200
    with plain(coordinator) as other:
        said = problem(other.post("/v1/dashboard/session", json={"code": code}, headers=OURS), 403)
        assert "the code is not good" in said.what
        for bad in ({"code": 7}, {}, {"code": "x" * 1000}):
            assert problem(other.post("/v1/dashboard/session", json=bad, headers=OURS), 403)
    cookies = dict(signed.cookies)
    coordinator.stop()
    coordinator.start()
    with plain(coordinator) as again:
        assert again.get("/v1/runs", headers={"cookie": "; ".join(map("=".join, cookies.items()))}).status_code == 200


def test_no_other_page_makes_the_browser_change_anything(coordinator: Coordinator, browser: httpx2.Client):
    run = start_run(coordinator.client, load_app(APP))
    signed_in(coordinator, browser)
    strange = [{}, {**OURS, "sec-fetch-site": "cross-site"}, {**OURS, "sec-fetch-site": "same-site"}]
    for headers in strange:
        for path in (f"/v1/runs/{run}/stop", "/v1/nodes/north/revoke", "/v1/dashboard/codes"):
            assert "own page" in problem(browser.post(path, headers=headers), 403).what
        code = {"code": code_of(coordinator)}
        assert "own page" in problem(browser.post("/v1/dashboard/session", json=code, headers=headers), 403).what
    assert coordinator.client.get(f"/v1/runs/{run}")["state"] == "running"
    assert browser.post(f"/v1/runs/{run}/stop", headers={**OURS, "sec-fetch-site": "same-origin"}).status_code == 200


def test_a_browser_gets_no_code_so_that_its_session_ends(coordinator: Coordinator, browser: httpx2.Client):
    signed_in(coordinator, browser)
    assert "not given to a browser" in problem(browser.post("/v1/dashboard/codes", headers=OURS), 403).what


def test_a_revoked_operator_is_out_at_once_and_its_streams_end(coordinator: Coordinator, tmp_path: Path):
    key = Identity.at(tmp_path / "ada.pem")
    certificate = (coordinator.home / "certificate.pem").read_text()
    with closing(Client(coordinator.url, certificate, "ada", key, give_up_s=5.0)) as ada, plain(coordinator) as browser:
        ada.enrol(coordinator.invite("ada", role="operator").token, None, {})
        code = ada.post("/v1/dashboard/codes")["code"]
        assert browser.post("/v1/dashboard/session", json={"code": code}, headers=OURS).status_code == 200
        with browser.stream("GET", "/v1/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("retry:")
            coordinator.client.post("/v1/nodes/ada/revoke")
            for _ in lines:  # it comes to its end
                pass
        assert browser.get("/v1/dashboard/session").json() == {"name": None}
        assert problem(browser.get("/v1/runs"), 401)


def test_neither_a_nodes_key_nor_its_bearer_opens_the_dashboard(
    coordinator: Coordinator, browser: httpx2.Client, tmp_path: Path
):
    with closing(RawNode(coordinator.invite("north"), tmp_path / "north")) as node:
        assert node.poll(0.0) is None
        for method, path in (("POST", "/v1/dashboard/codes"), ("GET", "/v1/stream"), ("GET", "/v1/runs/latest/stream")):
            with plain(coordinator) as http:
                response = http.request(method, path, headers=node.client._headers(True))
            assert "may not do this" in problem(response, 403).what
        name = next(iter(dict(signed_in(coordinator, browser).cookies)))
        with plain(coordinator) as other:
            assert problem(other.get("/v1/runs", headers={"cookie": f"{name}={node.client._bearer}"}), 401)


# ---------------------------------------------------------------------------------------------------------------- files


def test_the_page_comes_with_a_strict_policy_and_all_its_files_by_digest(browser: httpx2.Client):
    for path in ("/", "/dashboard"):
        assert browser.get(path).headers["location"] == "/dashboard/"
    first = browser.get("/dashboard/")
    assert first.headers["cache-control"] == "no-cache"
    (digest,) = set(re.findall(r"([0-9a-f]{16})/", first.text))
    names = [name for name in served() if name != "index.html"]
    assert {"main.js", "page.css", "sign.svg", "uPlot/uPlot.esm.js", "uPlot/uPlot.min.css"} <= set(names)
    for response in (first, *(browser.get(f"/dashboard/{digest}/{name}") for name in names)):
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response is first or "immutable" in response.headers["cache-control"]
    for name in ("../sessions.py", "index.html", "uPlot/LICENSE", "nosuch.js", "..%2f..%2fhttp.py"):
        assert browser.get(f"/dashboard/{digest}/{name}").status_code == 404


def test_the_page_is_written_so_that_it_needs_nothing_from_anywhere():
    for name, text in served().items():
        if name.startswith("uPlot/"):
            continue
        assert not re.search(r"innerHTML|insertAdjacentHTML|eval\(|new Function|document\.write", text), name
        outside = set(re.findall(r"https?://[\w.]+", text)) - {"http://www.w3.org"}
        assert not outside, name
    assert not re.search(r"<script(?![^>]*src=)|style=| on\w+=", served()["index.html"])
    assert PAGE.joinpath("uPlot/LICENSE").read_text().startswith("The MIT License")


def served() -> dict[str, str]:
    """The files of the page."""
    folders = {"": PAGE, "uPlot/": PAGE.joinpath("uPlot")}
    return {
        place + file.name: file.read_text("utf-8")
        for place, folder in folders.items()
        for file in folder.iterdir()
        if file.name.endswith((".html", ".js", ".css", ".svg"))
    }


# -------------------------------------------------------------------------------------------------------------- streams


@dataclass(frozen=True)
class Said:
    """One server-sent event."""

    kind: str
    id: str
    data: Any


def listen(lines: Iterator[str]) -> Iterator[Said]:
    """The events of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line and "data" in fields:
            yield Said(fields.get("event", ""), fields.get("id", ""), json.loads(fields["data"]))
        if not line:
            fields = {}
        name, _, value = line.partition(": ")
        fields[name] = value


class Working:
    """Two nodes that answer whatever they are asked."""

    def __init__(self, coordinator: Coordinator, home: Path, stack: ExitStack) -> None:
        self.over = threading.Event()
        nodes = [stack.enter_context(closing(RawNode(coordinator.invite(name), home / name))) for name in ("a", "b")]
        self.threads = [threading.Thread(target=self.play, args=(node,)) for node in nodes]
        for node in nodes:
            node.client._give_up_s = None
            assert node.poll(0.0) is None
        for thread in self.threads:
            thread.start()
        stack.callback(self.end)

    def play(self, node: RawNode) -> None:
        while not self.over.is_set():
            ask = node.poll(0.2)
            if ask is not None:
                node.answer(ask, Draft.file)

    def end(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def working(coordinator: Coordinator, tmp_path: Path) -> Iterator[Working]:
    """They are there before a run begins."""
    with ExitStack() as stack:
        yield Working(coordinator, tmp_path, stack)


def begin(coordinator: Coordinator, rounds: int = 3) -> str:
    """A run that waits for both nodes."""
    app = load_app(APP)
    rules = replace(app.plan.rules, least_nodes=2, deadline_s=60.0)
    return start_run(coordinator.client, replace(app, plan=replace(app.plan, rounds=rounds, rules=rules)))


def test_a_stream_of_a_run_tells_all_rounds_and_ends_with_the_run(
    coordinator: Coordinator, browser: httpx2.Client, working: Working
):
    signed_in(coordinator, browser)
    run = begin(coordinator)
    with browser.stream("GET", f"/v1/runs/{run}/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        said = list(listen(stream.iter_lines()))
    assert said[0].kind == "about"
    assert said[0].data["plan"]["rounds"] == 3
    rounds = [event for event in said if event.kind == "round"]
    numbers = [number for number, _ in coordinator.client.get(f"/v1/runs/{run}/events")["events"]]
    assert [int(event.id) for event in rounds] == numbers[1:-1] == [2, 3, 4]
    assert rounds[0].data["asked"]["train"] == rounds[0].data["heard"] == 2
    assert rounds[0].data["scopes"]["train"]["loss"]["nodes"] == {"a": 0.5, "b": 0.5}
    last = [event for event in said if event.kind == "run"][-1]
    assert (last.data["state"], last.data["round"], last.id) == ("finished", 3, "")
    record = browser.get(f"/v1/runs/{run}/records/1").json()
    assert (record["round"], record["survivors"]) == (1, ["a", "b"])
    assert problem(browser.get(f"/v1/runs/{run}/records/9"), 404)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_stream_goes_on_where_it_broke_off(
    coordinator: Coordinator, browser: httpx2.Client, working: Working, restarted: bool
):
    signed_in(coordinator, browser)
    run = begin(coordinator, rounds=4)
    follow(coordinator.client, run, [])
    path, client = f"/v1/runs/{run}/stream", browser
    if restarted:
        working.end()
        coordinator.stop()
        coordinator.start()
        client = plain(coordinator)
        client.cookies = browser.cookies
    for asked in ({"headers": {"last-event-id": "3"}}, {"params": {"after": 3}}):
        with client.stream("GET", path, **asked) as stream:
            assert [event.id for event in listen(stream.iter_lines()) if event.kind == "round"] == ["4", "5"]
    with client.stream("GET", path, headers={"last-event-id": "5"}) as stream:
        assert [event.kind for event in listen(stream.iter_lines())] == ["about", "run"]
    client.close()


def test_who_claims_to_know_more_rounds_than_there_can_be_is_told_none_and_breaks_nothing(
    coordinator: Coordinator, browser: httpx2.Client, working: Working
):
    signed_in(coordinator, browser)
    run = begin(coordinator, rounds=1)
    follow(coordinator.client, run, [])
    with browser.stream("GET", f"/v1/runs/{run}/stream", params={"after": "1e300"}) as stream:
        assert [event.kind for event in listen(stream.iter_lines())] == ["about", "run"]
    with browser.stream("GET", f"/v1/runs/{run}/stream", headers={"last-event-id": "9" * 40}) as stream:
        assert [event.kind for event in listen(stream.iter_lines())] == ["about", "run"]
    assert browser.get(f"/v1/runs/{run}/events", params={"after": "1e300"}).json()["events"] == []


def test_a_stream_of_a_paused_run_waits_and_goes_on_when_it_is_resumed(
    coordinator: Coordinator, browser: httpx2.Client, tmp_path: Path
):
    signed_in(coordinator, browser)
    run = begin(coordinator)
    with ExitStack() as stack:
        lines = stack.enter_context(browser.stream("GET", f"/v1/runs/{run}/stream")).iter_lines()
        events = listen(lines)
        states: list[str] = []
        while "paused" not in states:
            event = next(events)
            if event.kind == "run":
                states.append(event.data["state"])
                if states[-1] == "running":
                    coordinator.client.post(f"/v1/runs/{run}/pause")
        Working(coordinator, tmp_path, stack)
        coordinator.client.post(f"/v1/runs/{run}/resume")
        rest = list(events)
    assert [event.id for event in rest if event.kind == "round"] == ["2", "3", "4"]
    assert [event for event in rest if event.kind == "run"][-1].data["state"] == "finished"


def test_a_stream_tells_who_is_asked_and_heard_and_no_secret(
    coordinator: Coordinator, browser: httpx2.Client, tmp_path: Path
):
    signed_in(coordinator, browser)
    with closing(RawNode(coordinator.invite("a"), tmp_path / "a")) as a, ExitStack() as stack:
        b = stack.enter_context(closing(RawNode(coordinator.invite("b"), tmp_path / "b")))
        assert a.poll(0.0) is b.poll(0.0) is None
        run = begin(coordinator)
        stream = stack.enter_context(browser.stream("GET", f"/v1/runs/{run}/stream"))
        steps = (step for event in listen(stream.iter_lines()) if event.kind == "step" for step in event.data)
        opened, asked = next(steps), next(steps)
        assert set(opened) == {"step", "at_s", "round", "attempt", "purpose", "population", "norm_bound"}
        assert (asked["step"], asked["exchange"], sorted(asked["nodes"])) == ("Asked", "train", ["a", "b"])
        ask = a.poll(10.0)
        assert ask is not None
        a.answer(ask, Draft.file)
        heard = next(steps)
        assert (heard["step"], heard["nodes"], heard["task"]) == ("Heard", ["a"], asked["task"])
        ask = b.poll(10.0)
        assert ask is not None
        b.answer(ask, lambda draft: draft.file(value=float("nan")))
        dropped = next(steps)
        assert (dropped["node"], dropped["kind"]) == ("b", "quarantined")
        assert "NaN" in dropped["reason"] or "finite" in dropped["reason"]


def test_a_stream_of_everything_tells_the_difference_and_begins_anew_for_who_knows_another_life(
    coordinator: Coordinator, browser: httpx2.Client, tmp_path: Path
):
    signed_in(coordinator, browser)
    run = begin(coordinator)
    with browser.stream("GET", "/v1/stream") as stream:
        events = listen(stream.iter_lines())
        first = [next(events), next(events)]
        assert {(event.kind, event.data.get("id") or event.data["name"]) for event in first} == {
            ("run", run), ("node", "operator"),
        }  # fmt: skip
        with closing(RawNode(coordinator.invite("north"), tmp_path / "north")) as node:
            node.poll(0.0)
            joined = next(event for event in events if event.kind == "node" and event.data["there"])
            assert (joined.data["name"], joined.data["examples"]) == ("north", 10)
        coordinator.client.post(f"/v1/runs/{run}/pause")
        turned = next(event for event in events if event.kind == "run")
        assert turned.data["state"] == "paused"
    with browser.stream("GET", "/v1/stream", headers={"last-event-id": joined.id}) as stream:
        again = next(listen(stream.iter_lines()))
        assert (again.kind, again.data["state"]) == ("run", "paused")
    for unknown in ("0badc0de.99", "nonsense", "7"):
        with browser.stream("GET", "/v1/stream", headers={"last-event-id": unknown}) as stream:
            events = listen(stream.iter_lines())
            assert {next(events).kind, next(events).kind, next(events).kind} == {"run", "node"}


def test_streams_end_when_the_coordinator_does(coordinator: Coordinator, browser: httpx2.Client):
    signed_in(coordinator, browser)
    run = begin(coordinator)
    with ExitStack() as stack:
        streams = [
            stack.enter_context(browser.stream("GET", path)) for path in ("/v1/stream", f"/v1/runs/{run}/stream")
        ]
        heard = [stream.iter_raw() for stream in streams]
        for pieces in heard:
            next(pieces)
        coordinator.stop()
        for pieces in heard:
            assert all(pieces)  # ended, not broken off


def test_a_watcher_who_reads_nothing_is_owed_one_thing_for_each_run_and_node():
    from lycia.deployment.coordinator.watching import _Board

    board = _Board()
    for number in range(10_000):
        board.put("run", f"run {number % 3}", {"moved": number})
    assert len(board.after(0)) == 3
    assert [number for number, _, _ in board.after(0)] == [9_998, 9_999, 10_000]
    assert board.after(board.version_of(board.id_of(9_999)))[0][2] == '{"moved":9999}'


def test_a_stream_says_aloud_that_it_is_still_there(
    coordinator: Coordinator, browser: httpx2.Client, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(watching, "_HEARTBEAT_S", 0.2)
    signed_in(coordinator, browser)
    for path in ("/v1/stream", f"/v1/runs/{begin(coordinator)}/stream"):
        with browser.stream("GET", path) as stream:
            assert next(event.data for event in listen(stream.iter_lines()) if event.kind == "here") == {}


class Watched:
    """Runs that are watched, and a count of the looks at how one stands, which may have to wait."""

    def __init__(self, database: Database) -> None:
        self.looks, self.looked, self.go = 0, asyncio.Event(), asyncio.Event()
        self.database, self.watching = database, Watching(database, self.stored, list)

    async def stored(self, run: str) -> StoredRun:
        """How a run stands, in the database."""
        self.looks += 1
        self.looked.set()
        await self.go.wait()
        return await self.database.read(lambda connection: kept_runs.get_run(connection, run))


def over_a_run(tmp_path: Path, story: Callable[[Watched], Awaitable[None]]) -> None:
    """Play a story over a run that is on the list, and no more."""
    plan = load_app(APP).plan
    row = StoredRun("a-run", "small", plan.to_json(), plan.digest, "[]", 1.0, {})

    async def play() -> None:
        with closing(Database(sqlite_url(tmp_path / "lycia.db"))) as database:
            await database.write(lambda connection: kept_runs.create_run(connection, row))
            await asyncio.wait_for(story(Watched(database)), 20)

    asyncio.run(play())


def test_who_hangs_up_while_it_looks_how_things_stand_takes_that_from_nobody(tmp_path: Path):
    async def story(watched: Watched) -> None:
        await watched.watching.begin()
        one, other = (watched.watching.everything("", lambda: True) for _ in range(2))
        for stream in (one, other):
            assert (await anext(stream)).startswith("retry:")
        leaving = asyncio.create_task(anext(one))
        await watched.looked.wait()
        leaving.cancel()
        await asyncio.wait({leaving})
        watched.go.set()
        assert '"id":"a-run"' in await anext(other)

    over_a_run(tmp_path, story)


def test_a_crowd_that_watches_a_run_looks_once_for_all(tmp_path: Path):
    async def story(watched: Watched) -> None:
        watched.go.set()
        crowd = [watched.watching.run("a-run", 0, (), lambda: True) for _ in range(50)]
        for stream in crowd:
            assert "event: about" in await anext(stream)
        for state in ("running", "paused"):
            await watched.database.write(lambda connection, to=state: kept_runs.set_run_state(connection, "a-run", to))
            watched.watching.changed("a-run")
            watched.looks = 0
            told = await asyncio.gather(*(anext(stream) for stream in crowd))
            assert all(f'"state":"{state}"' in news for news in told)
            assert watched.looks <= 3

    over_a_run(tmp_path, story)


# -------------------------------------------------------------------------------------------------------------- glances


def record_of(nodes: int) -> dict[str, Any]:
    """A round of many nodes."""
    names = [f"node-{number:04d}" for number in range(nodes)]
    figures = {name: {"loss": number / nodes, "examples": 5.0} for number, name in enumerate(names)}
    drops = [{"node": name, "exchange": "train", "kind": "declined", "reason": "too busy"} for name in names]
    return {
        "round": 4, "attempt": 0, "purpose": "train", "population": nodes, "norm_bound": 2.0, "missed": "",
        "opened_s": 1.0, "ended_s": 2.0, "asked": {"train": names}, "survivors": names, "evaluation": {},
        "norms": dict.fromkeys(names, 1.0), "dropped": drops, "late": [{"node": "x", "reason": "slow"}],
        "train_metrics": {"pooled": {"loss": 0.5}, "nodes": figures},
    }  # fmt: skip


def test_a_round_at_a_glance_is_small_however_many_nodes_there_are():
    few, many = (glances.round_glance(3, record_of(count), ()) for count in (10, 2000))
    assert len(json.dumps(many)) < 8000
    assert len(few["scopes"]["train"]["loss"]["nodes"]) == 10
    assert many["scopes"]["train"]["loss"] == {"pooled": 0.5, "spread": [0.0, 0.25, 0.5, 0.7495, 0.9995], "nodes": {}}
    assert many["drops"] == {"declined": 2000, "late": 1}
    assert many["asked"] == {"train": 2000}
    picked = glances.round_glance(3, record_of(2000), {"node-0500", "nosuch"})
    assert picked["scopes"]["train"]["loss"]["nodes"] == {"node-0500": 0.25}


def test_what_opens_a_round_is_told_without_its_secret():
    said = glances.step_glance(Opened(1.0, 2, 0, "train", 5, b"secret" * 5, None))
    assert "secret" not in json.dumps(said)


def test_presence_counts_the_bytes_of_a_node():
    async def story() -> tuple[float | None, int, int]:
        presence = Presence(10.0, lambda: 5.0)
        presence.moved("north", up=1)  # not seen yet
        await presence.saw("north", "node")
        presence.moved("north", up=10)
        presence.moved("north", down=7)
        return presence.seen("north")

    assert asyncio.run(story()) == (5.0, 10, 7)
