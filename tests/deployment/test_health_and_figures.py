"""Health, readiness, and what Prometheus reads."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lycia.deployment.coordinator.health import Health
from lycia.deployment.local import Federation
from lycia.deployment.operator import OperatorAccess, follow
from lycia.deployment.starting import start_run
from lycia.errors import ConnectionFailed, StorageError
from lycia.runtime.apps import load_app
from lycia.storage.database import Database, sqlite_url
from tests.deployment.by_hand import ByHand, free_port
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode


@pytest.fixture
def port() -> int:
    """Where the figures are."""
    return free_port()


@pytest.fixture
def federation(tmp_path: Path, port: int) -> Iterator[Federation]:
    """A coordinator that gives figures."""
    with Federation(tmp_path / "home", APP, ["--silence", "5", "--metrics", f"127.0.0.1:{port}"]) as running:
        yield running


def figures(port: int) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """All figures: name → labels → value."""
    came = ByHand(f"http://127.0.0.1:{port}", "").call("GET", "/metrics")
    assert came.headers["content-type"].startswith("text/plain")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(came.body.decode()):
        assert family.documentation
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_prometheus_reads_what_happened_and_no_name_of_a_node(
    federation: Federation, raw_node: Callable[[str], RawNode], port: int
):
    # Given a run of three rounds, in which one update is no update
    nodes = [raw_node(name) for name in ("a-node-called-north", "a-node-called-south")]
    for node in nodes:
        assert node.poll(0.0) is None
    run = start_run(federation.client, load_app(APP))
    over = threading.Event()

    def play(node: RawNode, *, breaks: bool) -> None:
        while not over.is_set():
            ask = node.poll(0.2)
            if ask is not None:
                spoilt = breaks and ask.round == 1 and ask.exchange == "train"
                node.answer(ask, (lambda draft: draft.file(value=float("nan"))) if spoilt else Draft.file)

    threads = [threading.Thread(target=play, args=(node,), kwargs={"breaks": node is nodes[1]}) for node in nodes]
    for thread in threads:
        thread.start()
    assert follow(federation.client, run, []) == "finished"
    over.set()
    for thread in threads:
        thread.join()
    # Then the figures say so
    found = figures(port)
    assert found["lycia_runs"] == {
        (("state", state),): float(state == "finished") for state in ("running", "paused", "stopped", "finished")
    }
    assert found["lycia_rounds_total"] == {
        (("outcome", "ended"), ("run", run)): 3.0, (("outcome", "missed"), ("run", run)): 0.0,
    }  # fmt: skip
    assert found["lycia_round_seconds_count"] == {(): 3.0}
    assert found["lycia_nodes_there"] == {(("role", "node"),): 2.0, (("role", "evaluator"),): 0.0}
    updates = {labels[0][1]: value for labels, value in found["lycia_updates_total"].items()}
    assert updates == {"taken": 5.0, "quarantined": 1.0, "declined": 0.0, "vanished": 0.0, "late": 0.0}
    assert found["lycia_body_bytes_total"][(("direction", "up"),)] > 0
    assert found["lycia_body_bytes_total"][(("direction", "down"),)] > 0
    assert found["lycia_open_bodies"] == {(): 0.0}
    assert 0 < found["lycia_database_commits_total"][()] <= found["lycia_database_changes_total"][()]
    assert found["lycia_database_commit_seconds_count"][()] <= found["lycia_database_commits_total"][()]
    assert found["lycia_disk_free_bytes"][()] > 0
    assert found["lycia_stored_bytes"][(("place", "blobs"),)] > 0
    assert found["lycia_stored_bytes"][(("place", "database"),)] > 0
    assert found["lycia_ready"] == {(): 1.0}
    # and a counter of bytes goes on, and does not begin anew, at the next look
    assert figures(port)["lycia_body_bytes_total"] == found["lycia_body_bytes_total"]
    assert "a-node-called" not in ByHand(f"http://127.0.0.1:{port}", "").call("GET", "/metrics").body.decode()


def test_a_round_that_is_missed_is_counted_as_such(tmp_path: Path):
    from dataclasses import replace

    port = free_port()
    with Federation(tmp_path / "home", APP, ["--metrics", f"127.0.0.1:{port}"]) as federation:
        said = federation.client.post("/v1/invitations", _invite("north"))
        from lycia.deployment.identity import Invitation

        node = RawNode(Invitation.from_text(said["invitation"]), tmp_path / "north")
        assert node.poll(0.0) is None
        app = load_app(APP)
        rules = replace(app.plan.rules, least_nodes=1, quorum=1.0, retries=1, deadline_s=0.2)
        run = start_run(federation.client, replace(app, plan=replace(app.plan, rules=rules)))
        assert follow(federation.client, run, []) == "paused"
        node.close()
        found = figures(port)
        assert found["lycia_rounds_total"][(("outcome", "missed"), ("run", run))] == 2.0
        assert found["lycia_runs"][(("state", "paused"),)] == 1.0


def _invite(name: str) -> Any:
    from lycia.deployment.wire import InviteMessage

    return InviteMessage(name=name)


def test_health_and_readiness_are_for_anybody_and_say_no_more_than_that(federation: Federation, port: int):
    access = OperatorAccess.at(federation.coordinator_home)
    stranger = ByHand(access.url, access.certificate)
    for hand, root in ((stranger, "/v1"), (ByHand(f"http://127.0.0.1:{port}", ""), "")):
        assert hand.call("GET", f"{root}/health").json() == {"alive": True}
        ready = hand.call("GET", f"{root}/ready")
        assert (ready.status, ready.json()) == (200, {"ready": True, "reasons": []})
        assert ready.headers["cache-control"] == "no-store"
    # and nothing else is to be had there
    assert ByHand(f"http://127.0.0.1:{port}", "").call("GET", "/v1/runs").status == 404


def test_a_database_that_cannot_be_written_to_is_no_ready_one(tmp_path: Path):
    async def story() -> None:
        database = Database(sqlite_url(tmp_path / "lycia.db"))
        health = Health(database, tmp_path)
        assert await health.reasons() == ["starting"]
        health.is_starting = False
        assert await health.reasons() == []

        async def refuse(_: object) -> None:
            raise StorageError("the disk is full.", why="it is.", do="free some space.")

        database.write = refuse  # type: ignore[assignment,method-assign]
        assert await health.reasons() == []  # it was written to a moment ago
        health._asked_s = float("-inf")
        assert await health.reasons() == ["database"]
        health.is_draining = True
        assert await health.reasons() == ["draining", "database"]
        database.close()

    asyncio.run(story())


def test_a_database_that_hangs_is_no_ready_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lycia.deployment.coordinator.health._PATIENCE_S", 0.01)

    async def story() -> None:
        database, go = Database(sqlite_url(tmp_path / "lycia.db")), threading.Event()
        health = Health(database, tmp_path)
        health.is_starting = False
        hanging = asyncio.create_task(database.write(lambda _: go.wait(20)))
        await asyncio.sleep(0)
        assert await health.reasons() == ["database"]
        go.set()
        await hanging
        assert health._writing is not None
        await health._writing
        health._asked_s = float("-inf")
        assert await health.reasons() == []
        database.close()

    asyncio.run(story())


def test_a_disk_that_is_nearly_full_is_no_ready_one(tmp_path: Path):
    async def story() -> None:
        database = Database(sqlite_url(tmp_path / "lycia.db"))
        health = Health(database, tmp_path, least_free_bytes=1 << 62)
        health.is_starting = False
        assert await health.reasons() == ["disk"]
        assert Health(database, tmp_path / "gone").free_bytes() == 0
        database.close()

    asyncio.run(story())


def test_a_port_for_figures_that_is_taken_is_told_in_words(tmp_path: Path, port: int):
    with Federation(tmp_path / "one", APP, ["--metrics", f"127.0.0.1:{port}"]):
        other = Federation(tmp_path / "other", APP, ["--metrics", f"127.0.0.1:{port}"])
        with pytest.raises(ConnectionFailed, match="did not start") as refused, other:
            pass
        other.end("coordinator")
    assert re.search(rf"cannot listen on 127\.0\.0\.1:{port}", refused.value.why)


# ------------------------------------------------------------------------------------------------------------- streams


def test_a_watcher_of_everything_goes_on_where_it_was_and_after_a_restart_hears_all(tmp_path: Path):
    from lycia.deployment.identity import Identity

    with Coordinator(tmp_path / "coordinator") as coordinator:
        access = OperatorAccess.at(coordinator.home)
        hand = ByHand(access.url, access.certificate, "operator", Identity.at(Path(access.key))).sign_in()
        coordinator.invite("north")
        run = start_run(coordinator.client, load_app(APP))
        events = hand.stream("/v1/stream", most=2)
        assert {event["event"] for event in events} == {"run", "node"}
        # Who reconnects is told what changed since, and nothing else
        coordinator.client.post(f"/v1/runs/{run}/pause")
        (news,) = hand.stream("/v1/stream", most=1, last_event_id=events[-1]["id"])
        assert news["event"] == "run"
        assert '"state":"paused"' in news["data"]
        # A coordinator that was started again has numbers of its own, and tells everything
        coordinator.stop()
        coordinator.start()
        again = hand.stream("/v1/stream", most=2, last_event_id=news["id"])
        assert {event["event"] for event in again} == {"run", "node"}
        assert not {event["id"] for event in again} & {event["id"] for event in [*events, news]}
