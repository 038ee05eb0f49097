"""The coordinator's doors, and a stranger who tries them: roles, sessions, bodies, names, and what is whose."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.deployment.coordinator import sessions
from lycia.deployment.coordinator.transfers import Transfers
from lycia.deployment.identity import Identity, client_context, fetch_certificate
from lycia.deployment.node import client as client_module
from lycia.deployment.node.client import Client
from lycia.deployment.operator import download_model, follow
from lycia.deployment.starting import start_run
from lycia.deployment.wire import AliveMessage, Problem, ReplyMessage, StartMessage
from lycia.errors import AccessError, LayoutError, LyciaError, NotFound, PlanError, TensorFileError
from lycia.runtime.apps import load_app
from lycia.runtime.beginning import first_model
from lycia.storage import parts
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode
from tests.waiting import wait_until

SOUND_DIGEST = "0" * 64


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One for all tests of this page, which use nodes of their own."""
    with Coordinator(tmp_path_factory.mktemp("coordinator")) as running:
        yield running


@pytest.fixture
def joined(coordinator: Coordinator, tmp_path: Path) -> Iterator[Callable[..., RawNode]]:
    """Makes nodes; when the test is over, they are revoked, so that no other test waits for them."""
    with ExitStack() as stack:

        def join(name: str, **more: object) -> RawNode:
            invitation = coordinator.invite(f"{name}-{time.monotonic_ns()}", **more)
            stack.callback(coordinator.client.post, f"/v1/nodes/{invitation.name}/revoke")
            return stack.enter_context(closing(RawNode(invitation, tmp_path / invitation.name)))

        yield join


def raw(client: Client, method: str, path: str, **more: object) -> httpx2.Response:
    """A call as this caller, whatever it is."""
    headers = client._headers(True) | dict(more.pop("headers", {}))
    with plain(client) as http:
        return http.request(method, path, headers=headers, **more)


def plain(client: Client) -> httpx2.Client:
    """A client that sends what it is told, to the same coordinator."""
    return httpx2.Client(base_url=client.url, verify=client_context(client.certificate))


def problem(response: httpx2.Response) -> Problem:
    """What the coordinator says is wrong: always in words, and never a bug of its own."""
    assert 400 <= response.status_code < 500, response.text
    found = Problem.model_validate_json(response.content)
    assert all((found.what, found.why, found.do))
    return found


def files_in(home: Path) -> set[Path]:
    """All files that a coordinator keeps of models and updates."""
    return {path for room in ("blobs", "spool") for path in (home / room).rglob("*") if path.is_file()}


def asked(coordinator: Coordinator, *nodes: RawNode, rounds: int = 1) -> tuple[str, list]:
    """A run, and what its nodes, who are all that are there, are asked first."""
    for node in nodes:
        assert node.poll(0.0) is None
    app = load_app(APP)
    plan = replace(app.plan, rounds=rounds, rules=replace(app.plan.rules, least_nodes=1, deadline_s=60.0))
    run = start_run(coordinator.client, replace(app, plan=plan))
    asks = [node.poll(10.0) for node in nodes]
    assert all(ask is not None and ask.run == run for ask in asks)
    return run, asks


def finish(coordinator: Coordinator, run: str, *nodes: RawNode) -> None:
    """Answer until the run is over."""
    over = threading.Event()

    def play(node: RawNode) -> None:
        while not over.is_set():
            ask = node.poll(0.1)
            if ask is not None:
                node.answer(ask, Draft.file)

    threads = [threading.Thread(target=play, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    follow(coordinator.client, run, [])
    over.set()
    for thread in threads:
        thread.join()


# ---------------------------------------------------------------------------------------------------------------- roles


def test_a_node_cannot_open_an_operators_doors_nor_an_operator_a_nodes(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    node, operator = joined("node").client, coordinator.client
    doors = [
        (node, "GET", "/v1/nodes"),
        (node, "GET", "/v1/runs"),
        (node, "POST", "/v1/invitations"),
        (node, "POST", "/v1/nodes/operator/revoke"),
        (node, "POST", "/v1/blobs"),
        (node, "POST", "/v1/runs"),
        (node, "GET", "/v1/runs/latest/model"),
        (operator, "POST", "/v1/poll"),
        (operator, "POST", "/v1/alive"),
        (operator, "POST", "/v1/runs/a-run/tasks/0/update"),
        (operator, "POST", "/v1/runs/a-run/tasks/0/reply"),
    ]
    for caller, method, path in doors:
        response = raw(caller, method, path, content=b"{}")
        assert response.status_code == 403, path
        assert "may not do this" in problem(response).what


def test_an_operator_cannot_lock_itself_out(coordinator: Coordinator):
    with pytest.raises(AccessError, match="cannot revoke itself"):
        coordinator.client.post("/v1/nodes/operator/revoke")
    assert coordinator.client.get("/v1/nodes")


# ------------------------------------------------------------------------------------------------------------- sessions


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer x", "Bearer north|operator|99999999999|00", "Basic YTpi", b"Bearer \xff\xfe|a|b"],
)
def test_a_call_without_a_good_session_is_told_to_sign_in(coordinator: Coordinator, authorization: str | bytes | None):
    headers = {} if authorization is None else {"authorization": authorization}
    with plain(coordinator.client) as http:
        response = http.get("/v1/nodes", headers=headers)
    assert response.status_code == 401
    assert "challenge" in problem(response).do


def test_a_session_that_ran_out_is_renewed_without_anybody_noticing(
    joined: Callable[..., RawNode], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sessions, "_BEARER_S", -1.0)
    node = joined("node")
    with plain(node.client) as http:
        assert http.post("/v1/poll", headers={"authorization": "Bearer gone"}).status_code == 401
    with pytest.raises(AccessError, match="without a good session"):
        node.poll(0.0)  # every new one has run out as well
    monkeypatch.setattr(sessions, "_BEARER_S", 900.0)
    old = node.client._bearer = "north|node|1|00"
    assert node.poll(0.0) is None
    assert node.client._bearer != old


@pytest.mark.parametrize("hours_off", [-1, 1, 24 * 365])
def test_a_node_whose_clock_is_off_joins_and_works_all_the_same(
    hours_off: int, coordinator: Coordinator, joined: Callable[..., RawNode], monkeypatch: pytest.MonkeyPatch
):
    mine, real = threading.get_ident(), time.time
    monkeypatch.setattr(time, "time", lambda: real() + (hours_off * 3600 if threading.get_ident() == mine else 0))
    node = joined("node-with-another-time")
    node.client._bearer = ""
    assert node.poll(0.0) is None
    node.client.alive("a-run", 0)


def test_somebody_with_another_key_or_an_unknown_name_does_not_get_in(
    coordinator: Coordinator, joined: Callable[..., RawNode], tmp_path: Path
):
    node = joined("node")
    certificate = (coordinator.home / "certificate.pem").read_text()
    for name, reason in ((node.name, "could not prove who it is"), ("nobody", "not a member"), ("", "not a member")):
        stranger = Client(coordinator.url, certificate, name, Identity.at(tmp_path / "stranger.pem"), give_up_s=2.0)
        with closing(stranger), pytest.raises(AccessError, match=reason):
            stranger.poll(0.0, None)


# --------------------------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("path", "sound"),
    [
        ("/v1/poll", {"wait_s": 0}),
        ("/v1/alive", {"run": "a", "task": 1}),
        ("/v1/enrol", None),
        ("/v1/challenge", {"name": "north"}),
        ("/v1/session", None),
    ],
)
def test_a_body_that_is_no_such_message_is_refused_in_words(
    path: str, sound: dict | None, joined: Callable[..., RawNode]
):
    client = joined("node").client
    bad = [b"", b"not json", b"\xff\xfe", b"[]", b"null", b"{}" if path not in ("/v1/poll",) else b"7", b"[" * 10_000]
    bad.append(json.dumps((sound or {}) | {"name": 7, "wait_s": "long", "run": [], "token": {}}).encode())
    for body in bad:
        found = problem(raw(client, "POST", path, content=body))
        assert "cannot be read" in found.what, body
    if sound is not None:  # and so is what a later release says beyond this one
        for good in (sound, sound | {"unknown": 1}):
            assert raw(client, "POST", path, content=json.dumps(good).encode()).status_code < 300


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200),
    path=st.sampled_from(["poll", "alive", "enrol", "challenge", "session", "invitations"]),
)
def test_no_body_brings_the_coordinator_down(body: bytes, path: str, coordinator: Coordinator):
    with plain(coordinator.client) as http:
        for headers in ({}, coordinator.client._headers(True)):
            assert http.post(f"/v1/{path}", content=body, headers=headers).status_code < 500


@pytest.mark.parametrize("examples", ["NaN", "Infinity", "-1", "1e300"])
def test_a_node_that_claims_impossible_numbers_of_examples_is_refused(examples: str, joined: Callable[..., RawNode]):
    response = raw(joined("node").client, "POST", "/v1/poll", content=f'{{"wait_s": 0, "examples": {examples}}}')
    assert "examples" in problem(response).what


def test_a_message_larger_than_any_message_is_refused(joined: Callable[..., RawNode]):
    response = raw(joined("node").client, "POST", "/v1/poll", content=b" " * (17 << 20))
    assert "larger than" in problem(response).what


def test_an_update_larger_than_any_update_is_quarantined_by_name_and_not_stored(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    nodes = [joined("honest"), joined("large")]
    run, (_, ask) = asked(coordinator, *nodes)
    before = files_in(coordinator.home)
    for announced in (True, False):  # with a content-length, and without one
        content = b"x" * (20 << 20) if announced else (b"x" * (1 << 20) for _ in range(20))
        response = raw(nodes[1].client, "POST", f"/v1/runs/{run}/tasks/{ask.task}/update", content=content)
        assert response.status_code == 200
        assert "larger than" in response.json()["refused"]
    assert files_in(coordinator.home) == before
    finish(coordinator, run, *nodes)
    first = coordinator.client.get(f"/v1/runs/{run}")["records"][0]
    assert [(drop["node"], drop["kind"]) for drop in first["dropped"]] == [(nodes[1].name, "quarantined")]


def test_a_malformed_update_takes_no_room_and_takes_nothing_away(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    nodes = [joined("honest"), joined("odd"), joined("thief")]
    run, asks = asked(coordinator, *nodes)
    before = files_in(coordinator.home)
    first_model = download_model(coordinator.client, run, coordinator.home / "copy").read_bytes()
    assert nodes[1].send(asks[1], b"garbage of my own")
    assert nodes[2].send(asks[2], first_model)  # the very bytes of a blob that others need
    assert wait_until(lambda: files_in(coordinator.home) == before)
    finish(coordinator, run, *nodes)
    again = download_model(coordinator.client, run, coordinator.home / "copy", 0).read_bytes()
    assert again == first_model


# ----------------------------------------------------------------------------------------------- names, and whose it is


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runs/nosuch", "/v1/runs/nosuch/events", "/v1/runs/nosuch/model", "/v1/runs/..%2F..%2Fetc/model",
        "/v1/nothing", "/v2/meta", "/v1/runs/nosuch/stream", "/v1/runs/a/b/c/d", "/dashboard/0/main.js",
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_in_words(path: str, coordinator: Coordinator):
    response = raw(coordinator.client, "GET", path)
    assert response.status_code == 404
    assert problem(response).kind == "NotFound"
    with pytest.raises(NotFound):
        coordinator.client.get(path)


def test_an_ambiguous_beginning_of_a_run_names_the_runs_that_it_may_be(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    node = joined("node")
    runs = []
    for _ in range(2):
        run, _ = asked(coordinator, node)
        finish(coordinator, run, node)
        runs.append(run)
    with pytest.raises(NotFound) as refused:
        coordinator.client.get("/v1/runs/small-")
    assert all(run in refused.value.what for run in runs)
    assert coordinator.client.get(f"/v1/runs/{runs[0][:-1]}")["id"] == runs[0]
    assert coordinator.client.get("/v1/runs/latest")["id"] == runs[1]


def test_a_number_that_is_none_or_a_round_that_there_is_not_is_told_in_words(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    node = joined("node")
    run, _ = asked(coordinator, node)
    with pytest.raises(NotFound, match="no model of round 1"):
        coordinator.client.get(f"/v1/runs/{run}/model", round=1)
    finish(coordinator, run, node)
    with pytest.raises(NotFound, match="no model of round 99") as refused:
        coordinator.client.get(f"/v1/runs/{run}/model", round=99)
    assert "rounds 0, 1" in refused.value.why
    for query in ("model?round=nan", "model?round=inf", "model?round=x", "events?after=nan", "events?wait_s=inf"):
        assert "not a number" in problem(raw(coordinator.client, "GET", f"/v1/runs/{run}/{query}")).what


def test_no_digest_leads_out_of_what_an_ask_gives_a_node(joined: Callable[..., RawNode]):
    client = joined("node").client
    for digest in (
        SOUND_DIGEST, "..%2f..%2fetc%2fpasswd", "....//etc/passwd", "%00", "x" * 5000, "..", "lycia.db", "a" * 63 + "/",
    ):  # fmt: skip
        response = raw(client, "GET", f"/v1/blobs/{digest}")
        assert response.status_code == 404
        assert problem(response).kind == "NotFound"


def test_a_node_reads_what_its_own_ask_names_and_nothing_of_another_run(
    coordinator: Coordinator, joined: Callable[..., RawNode], tmp_path: Path
):
    mine, other = joined("mine"), joined("other")
    run, (ask,) = asked(coordinator, mine)
    for number, digest in enumerate((ask.plan, ask.layout, ask.model)):
        assert mine.client.download(digest, tmp_path / f"file {number}", run).stat().st_size > 0
        response = raw(other.client, "GET", f"/v1/blobs/{digest}?run={run}")
        assert response.status_code == 404
        assert "a digest alone is no key" in problem(response).why
    finish(coordinator, run, mine)
    assert raw(mine.client, "GET", f"/v1/blobs/{ask.model}").status_code == 404


def test_an_update_for_the_task_of_another_node_or_run_does_not_count(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    mine, other = joined("mine"), joined("other")
    run, (ask,) = asked(coordinator, mine)
    for task in (ask.task, ask.task + 1, 10**9):
        forged = ask.model_copy(update={"task": task})
        layout = Layout.from_json(load_app(APP).trainer.first_model(load_app(APP).schema, Key(0))[0].to_json())
        delta = np.ones(layout.size("trained"), np.float32)
        assert other.send(forged, Draft(forged, mine.name, layout, delta).file())
        other.client.reply(run, task, ReplyMessage(kind="declined", reason="in the name of another"))
        other.client.reply(run, task, ReplyMessage(kind="scores", weight=1.0, metrics={"accuracy": 1.0}))
    with pytest.raises(NotFound, match="no run"):
        other.client.reply("nosuch", 0, ReplyMessage(kind="declined"))
    coordinator.client.post(f"/v1/nodes/{other.name}/revoke")
    finish(coordinator, run, mine)
    first = coordinator.client.get(f"/v1/runs/{run}")["records"][0]
    assert first["survivors"] == [mine.name]
    assert first["dropped"] == []
    assert {late["node"] for late in first["late"]} == {other.name}


def test_a_reply_twice_and_a_reply_after_the_end_are_answered_alike(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    node = joined("node")
    run, (ask,) = asked(coordinator, node)
    assert node.answer(ask, Draft.file) == ""
    assert node.answer(ask, Draft.file) == ""  # it was taken before, and that is said again
    finish(coordinator, run, node)
    assert node.answer(ask, Draft.file) == ""  # it counts, and a node that was refused would undo what it remembers
    assert node.answer(ask.model_copy(update={"task": 99}), Draft.file) == "the run is finished"


@pytest.mark.parametrize("rounds", [1, 2], ids=["when the run is over", "when the next round is open"])
def test_an_update_that_was_taken_is_taken_when_it_comes_again_after_its_round(
    rounds: int, coordinator: Coordinator, joined: Callable[..., RawNode]
):
    # Given an update that was taken, whose node has not heard of it, and a round that has ended since
    node = joined("node")
    run, (ask,) = asked(coordinator, node, rounds=rounds)
    assert node.answer(ask, Draft.file) == ""
    node.answer(node.poll(), Draft.file)  # it measures the model
    later = node.poll() if rounds > 1 else finish(coordinator, run, node)
    # When it comes again, then it is not late: its node shall remember what came of that work
    assert node.answer(ask, Draft.file) == ""
    if later is not None:
        assert later.round == 1
        finish(coordinator, run, node)
    assert not any(record["late"] for record in coordinator.client.get(f"/v1/runs/{run}")["records"])


# ------------------------------------------------------------------------------------------------------------- starting


def test_a_run_that_does_not_fit_together_is_refused_before_it_begins(coordinator: Coordinator):
    app = load_app(APP)
    layout, model = app.trainer.first_model(app.schema, Key(0))
    digest = coordinator.client.upload_blob(layout.file(model))
    garbage = coordinator.client.upload_blob([b"no model"])
    wider = Layout(tuple(replace(leaf, shape=(*leaf.shape, 1)) for leaf in layout.leaves))
    other = coordinator.client.upload_blob(wider.file(Model(model.trained, frozen=model.frozen)))
    plan = app.plan.to_json()
    before = coordinator.client.get("/v1/runs")
    refusals: list[tuple[dict, type[LyciaError], str]] = [
        ({"plan": plan.replace("FedAvg", "pickle:loads")}, PlanError, "'pickle:loads', which is not installed"),
        ({"plan": plan.replace('"rounds":3', '"rounds":0')}, PlanError, "rounds=0"),
        ({"plan": "{}"}, PlanError, "cannot be read"),
        ({"plan": "[" * 100_000}, PlanError, "cannot be read"),
        ({"layout": "{}"}, LayoutError, ""),
        ({"model": SOUND_DIGEST}, NotFound, "no blob"),
        ({"model": "../../etc/passwd"}, NotFound, "not the digest"),
        ({"model": garbage}, TensorFileError, "not a sound safetensors file"),
        ({"model": other}, LayoutError, "another layout"),
    ]
    sound = {"app": "small", "plan": plan, "layout": layout.to_json(), "model": digest}
    for change, kind, reason in refusals:
        with pytest.raises(kind) as refused:
            coordinator.client.post("/v1/runs", StartMessage(**sound | change))
        assert reason in refused.value.what
    assert coordinator.client.get("/v1/runs") == before


def test_a_start_whose_answer_was_lost_is_repeated_and_begins_one_run(coordinator: Coordinator):
    app = load_app(APP)
    layout, model = first_model(app)
    file = coordinator.client.upload_blob(layout.file(model))
    plan = replace(app.plan, rules=replace(app.plan.rules, least_nodes=99)).to_json()
    message = StartMessage(run="once", app=app.name, plan=plan, layout=layout.to_json(), model=file)
    before = len(coordinator.client.get("/v1/runs")["runs"])
    assert [coordinator.client.post("/v1/runs", message)["run"] for _ in range(2)] == ["once", "once"]
    assert len(coordinator.client.get("/v1/runs")["runs"]) == before + 1
    with pytest.raises(AccessError, match="another run 'once'"):
        coordinator.client.post("/v1/runs", message.model_copy(update={"app": "another"}))
    coordinator.client.post("/v1/runs/once/stop")


def test_an_app_may_be_called_anything(coordinator: Coordinator, joined: Callable[..., RawNode]):
    node, app = joined("node"), load_app(APP)
    plan = replace(app.plan, rounds=1, rules=replace(app.plan.rules, least_nodes=1))
    for name in ("with space", "../up/and down", "ünï?#%", ""):
        node.poll(0.0)
        run = start_run(coordinator.client, replace(app, plan=plan, name=name))
        finish(coordinator, run, node)
        facts = coordinator.client.get(f"/v1/runs/{run}")
        assert (facts["app"], facts["state"]) == (name, "finished")


# ------------------------------------------------------------------------------------------------------------- revoking


def test_a_revoked_node_is_told_so_at_once_even_while_it_waits_for_work(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    node = joined("node")
    refused: list[AccessError] = []

    def wait_for_work() -> None:
        try:
            node.poll(30.0)
        except AccessError as error:
            refused.append(error)

    waiting = threading.Thread(target=wait_for_work)
    waiting.start()
    while not next(known for known in coordinator.client.get("/v1/nodes")["nodes"] if known["name"] == node.name)[
        "there"
    ]:
        time.sleep(0.01)
    coordinator.client.post(f"/v1/nodes/{node.name}/revoke")
    waiting.join(5)
    assert "has been revoked" in refused[0].what
    for call in (lambda: node.poll(0.0), lambda: node.client.alive("a", 0)):
        with pytest.raises(AccessError, match="has been revoked"):
            call()


def test_a_revoked_name_stays_taken_and_the_operator_is_told_what_to_do(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    node = joined("node")
    with pytest.raises(AccessError, match="is enrolled already"):
        coordinator.invite(node.name)
    coordinator.client.post(f"/v1/nodes/{node.name}/revoke")
    with pytest.raises(AccessError, match="has been revoked") as refused:
        coordinator.invite(node.name)
    assert f"{node.name}-2" in refused.value.do
    with pytest.raises(NotFound, match="no node 'nosuch'"):
        coordinator.client.post("/v1/nodes/nosuch/revoke")


def test_what_a_node_delivers_after_it_was_revoked_does_not_count(
    coordinator: Coordinator, joined: Callable[..., RawNode]
):
    good, bad = joined("good"), joined("bad")
    run, (_, ask) = asked(coordinator, good, bad)
    coordinator.client.post(f"/v1/nodes/{bad.name}/revoke")
    with pytest.raises(AccessError):
        bad.answer(ask, Draft.file)
    with pytest.raises(AccessError):
        bad.client._call("POST", "/v1/alive", AliveMessage(run=run, task=ask.task))
    finish(coordinator, run, good)
    record = coordinator.client.get(f"/v1/runs/{run}")["records"][0]
    assert record["survivors"] == [good.name]
    assert {(drop["node"], drop["kind"]) for drop in record["dropped"]} == {(bad.name, "vanished")}


def test_the_certificate_that_is_shown_is_the_one_in_the_invitation(coordinator: Coordinator):
    invitation = coordinator.invite("anybody-at-all")
    assert fetch_certificate(invitation.url, invitation.pin) == (coordinator.home / "certificate.pem").read_text()


# ------------------------------------------------------------------------------------------------------------ transfers


@pytest.fixture
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files go by parts, too."""
    monkeypatch.setattr(parts, "PART_BYTES", 4096)
    monkeypatch.setattr(client_module, "INLINE_BYTES", 64)


def test_an_update_by_parts_whose_upload_was_let_go_of_is_announced_again(
    cut_small: None, coordinator: Coordinator, joined: Callable[..., RawNode], monkeypatch: pytest.MonkeyPatch
):
    node = joined("node")
    run, (ask,) = asked(coordinator, node)
    real, lost = Transfers.find, []

    async def find(self: Transfers, sender: str, id: str) -> object:
        if sender == node.name and len(lost) < 2:
            lost.append(id)
            await self._forget([id])
        return await real(self, sender, id)

    monkeypatch.setattr(Transfers, "find", find)
    assert node.answer(ask, Draft.file) == ""
    assert len(lost) == 2
    finish(coordinator, run, node)
    assert coordinator.client.get(f"/v1/runs/{run}")["records"][0]["survivors"] == [node.name]


def test_a_model_that_is_there_already_is_not_sent_again(cut_small: None, coordinator: Coordinator):
    digest = coordinator.client.upload_blob([bytes(10_000)])
    assert coordinator.client.upload_blob([bytes(10_000)]) == digest
