"""Updates that come by parts, over a real network: nothing comes twice, nothing is lost, nobody gets at another's."""

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from lycia import Uniform
from lycia.core import hearing
from lycia.deployment.coordinator import server
from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.service import Service
from lycia.deployment.coordinator.transfers import Limits, Transfers
from lycia.deployment.link import LinkFailed
from lycia.deployment.node import client as client_module
from lycia.deployment.starting import start_run
from lycia.deployment.wire import UploadedMessage, UploadMessage
from lycia.errors import AccessError, ConnectionFailed, LyciaError, NotFound, StorageError
from lycia.storage import parts
from lycia.storage.database import Database, sqlite_url
from lycia.storage.uploads import Upload, upload_id
from lycia.storage.uploads import announce as note_upload
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import RawNode
from tests.deployment.transferring import (
    INLINE,
    LOST,
    PART,
    Hurt,
    Killed,
    again,
    app_of,
    begin,
    facts,
    hurt,
    spooled,
    update_for,
    wait_over,
)
from tests.waiting import wait_until

SILENCE_S = 60.0  # no node of these tests is to vanish on a slow machine


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", PART)
    monkeypatch.setattr(client_module, "INLINE_BYTES", INLINE)
    monkeypatch.setattr(client_module, "_PATIENCE_S", (0.01, 0.05))


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """One for each test."""
    with Coordinator(tmp_path / "coordinator", SILENCE_S) as running:
        yield running


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Limits], Coordinator]]:
    """Makes a coordinator with limits."""
    with ExitStack() as stack:

        def make(limits: Limits) -> Coordinator:
            monkeypatch.setattr(server, "Service", lambda *said, **more: Service(*said, **{**more, "limits": limits}))
            return stack.enter_context(Coordinator(tmp_path / "limited", SILENCE_S))

        yield make


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Callable[[Coordinator, str], RawNode]]:
    """Makes nodes that send one part at a time, and never give up."""
    with ExitStack() as stack:

        def make(coordinator: Coordinator, name: str = "north") -> RawNode:
            node = stack.enter_context(closing(RawNode(coordinator.invite(name), tmp_path / name)))
            node.client._give_up_s, node.client._parallel = None, 1
            return node

        yield make


Join = Callable[..., RawNode]


def at_part(link: Hurt, count: int, do: Callable[[], None]) -> None:
    """Do something once, before so many parts and one have been sent."""
    done = []

    def before(method: str, path: str) -> None:
        if method == "PUT" and len(link.parts) == count and not done:
            done.append(path)
            do()

    link.before = before


def announced(content: bytes) -> UploadMessage:
    """What a node says before it sends these bytes."""
    return UploadMessage(size_bytes=len(content), parts=list(parts.digests(content)))


def test_an_update_by_parts_counts_as_one_that_came_in_one_call(
    coordinator: Coordinator, join: Join, monkeypatch: pytest.MonkeyPatch
):
    nodes, models = [join(coordinator, name) for name in ("north", "south")], []
    for inline in (1 << 20, INLINE):
        monkeypatch.setattr(client_module, "INLINE_BYTES", inline)
        links = [hurt(node.client) for node in nodes]
        run, _ = begin(coordinator, *nodes)
        found = wait_over(coordinator, run, *nodes)
        assert found["state"] == "finished"
        assert found["records"][0]["survivors"] == ["north", "south"]
        assert all((len(link.parts) > 2) == (inline == INLINE) for link in links)
        models.append(found["records"][0]["model"])
    assert models[0] == models[1]
    assert wait_until(lambda: spooled(coordinator) == set())


def test_a_coordinator_that_stops_between_parts_gets_only_those_that_it_has_not_got(
    coordinator: Coordinator, join: Join
):
    node = join(coordinator)
    run, (ask,) = begin(coordinator, node)
    content, link = update_for(node, ask), hurt(node.client)

    def restart() -> None:
        coordinator.stop()
        coordinator.start()

    at_part(link, 2, restart)
    assert node.send(ask, content) == ""
    assert link.parts == list(range(parts.count(len(content))))
    assert wait_over(coordinator, run, node)["records"][0]["survivors"] == ["north"]


def test_a_node_that_is_killed_between_parts_sends_only_those_that_are_missing(
    coordinator: Coordinator, join: Join, tmp_path: Path
):
    node = join(coordinator)
    run, (ask,) = begin(coordinator, node)
    content, link = update_for(node, ask), hurt(node.client)

    def die() -> None:
        raise Killed

    at_part(link, 2, die)
    with pytest.raises(Killed):
        node.send(ask, content)
    with closing(again(node, tmp_path / "north")) as next_one:
        link_after = hurt(next_one.client)
        assert next_one.send(ask, content) == ""
        assert link.parts + link_after.parts == list(range(parts.count(len(content))))
        assert wait_over(coordinator, run, next_one)["state"] == "finished"


def test_a_node_that_was_killed_before_it_heard_that_its_update_counts_sends_nothing_again(
    coordinator: Coordinator, join: Join, tmp_path: Path
):
    node, other = join(coordinator), join(coordinator, "south")
    run, (ask, _) = begin(coordinator, node, other)
    content = update_for(node, ask)
    assert node.send(ask, content) == ""
    with closing(again(node, tmp_path / "north")) as next_one:
        link = hurt(next_one.client)
        assert next_one.send(ask, content) == ""
        assert link.parts == []
    assert wait_over(coordinator, run, node, other)["records"][0]["survivors"] == ["north", "south"]


def test_a_part_that_is_damaged_on_the_way_is_not_kept_and_is_sent_again(coordinator: Coordinator, join: Join):
    node = join(coordinator)
    run, (ask,) = begin(coordinator, node)
    content, link, damaged = update_for(node, ask), hurt(node.client), []

    def flip(path: str, body: bytes) -> bytes:
        if not path.endswith("/1") or damaged:
            return body
        damaged.append(path)
        return bytes([body[0] ^ 1]) + bytes(body[1:])

    link.change = flip
    assert node.send(ask, content) == ""
    assert link.parts == [0, 1, *range(1, parts.count(len(content)))]
    assert wait_over(coordinator, run, node)["records"][0]["survivors"] == ["north"]


def test_a_way_that_damages_every_part_is_told_in_words_and_what_came_whole_is_kept(
    coordinator: Coordinator, join: Join
):
    node = join(coordinator)
    _, (ask,) = begin(coordinator, node)
    content, link = update_for(node, ask), hurt(node.client)
    link.change = lambda path, body: bytes(len(body)) if path.endswith("/1") else body
    with pytest.raises(ConnectionFailed, match="part 1 arrived damaged 3 times") as refused:
        node.send(ask, content)
    assert "memory or disk" in refused.value.why
    said = node.client._call("POST", f"/v1/runs/{ask.run}/tasks/{ask.task}/upload", announced(content)).json()
    assert said["have"] == [0]


def test_what_lies_about_its_size_or_digests_is_refused_in_words(coordinator: Coordinator, join: Join):
    node = join(coordinator)
    _, (ask,) = begin(coordinator, node)
    content, client = update_for(node, ask), node.client
    door, message = f"/v1/runs/{ask.run}/tasks/{ask.task}/upload", announced(content)
    for wrong in (message.parts[:-1], [*message.parts, message.parts[0]]):
        with pytest.raises(AccessError, match=f"announced with {len(wrong)} parts"):
            client._call("POST", door, message.model_copy(update={"parts": wrong}))
    said = client._call("POST", door, message).json()

    def put(number: int, body: bytes, digest: str) -> dict:
        return client._call("PUT", f"{door}/{said['upload']}/{number}", body, headers={"x-part-digest": digest}).json()

    for number, digest in ((0, message.parts[1]), (0, "no digest"), (len(message.parts), message.parts[0])):
        with pytest.raises(NotFound, match=f"part {number} of this upload is not"):
            put(number, content[:PART], digest)
    assert put(0, content[: PART - 1], message.parts[0])["damaged"]
    assert put(0, b"", message.parts[0])["damaged"]
    with pytest.raises(LyciaError, match=f"larger than {PART} bytes"):
        put(0, content[: PART + 1], message.parts[0])
    assert client._call("POST", door, message).json()["have"] == []
    assert node.send(ask, content) == ""


def test_an_update_that_is_announced_larger_than_any_is_quarantined_by_name_and_gets_no_room(
    coordinator: Coordinator, join: Join
):
    node, honest = join(coordinator), join(coordinator, "south")
    run, (ask, _) = begin(coordinator, node, honest)
    size = 64 << 20
    message = UploadMessage(size_bytes=size, parts=["0" * 64] * parts.count(size))
    said = node.client._call("POST", f"/v1/runs/{run}/tasks/{ask.task}/upload", message).json()
    assert "larger than" in said["refused"]
    assert spooled(coordinator) == set()
    record = wait_over(coordinator, run, node, honest)["records"][0]
    assert [(drop["node"], drop["kind"]) for drop in record["dropped"]] == [("north", "quarantined")]
    assert record["survivors"] == ["south"]


def test_nobody_gets_at_an_upload_that_another_node_has_announced_nor_uses_its_own_elsewhere(
    coordinator: Coordinator, join: Join
):
    owner, other = join(coordinator), join(coordinator, "south")
    run, (ask, _) = begin(coordinator, owner, other)
    content = update_for(owner, ask)
    door, message = f"/v1/runs/{run}/tasks/{ask.task}", announced(content)
    upload = owner.client._call("POST", f"{door}/upload", message).json()["upload"]
    headers = {"x-part-digest": message.parts[0]}
    with pytest.raises(NotFound, match="'south' has announced no upload"):
        other.client._call("PUT", f"{door}/upload/{upload}/0", content[:PART], headers=headers)
    with pytest.raises(NotFound, match="'south' has announced no upload"):
        other.client._call("POST", f"{door}/update", UploadedMessage(upload=upload))
    for node in (owner, other):
        with pytest.raises(NotFound, match="there is nothing under"):
            node.client._call("GET", f"/v1/blobs/{upload}")
    with pytest.raises(NotFound, match="there is no run"):
        owner.client._call(
            "PUT", f"/v1/runs/no-run/tasks/{ask.task}/upload/{upload}/0", content[:PART], headers=headers
        )
    late = owner.client._call("PUT", f"/v1/runs/{run}/tasks/99/upload/{upload}/0", content[:PART], headers=headers)
    assert "was over before" in late.json()["refused"]
    # Nor in another run that asks the same node for the same task.
    second, (elsewhere, _) = begin_second(coordinator, owner, other, run, ask.task)
    there = f"/v1/runs/{second}/tasks/{elsewhere}"
    with pytest.raises(NotFound, match="that upload is for another task"):
        owner.client._call("PUT", f"{there}/upload/{upload}/0", content[:PART], headers=headers)
    assert owner.client._call("POST", f"{there}/update", UploadedMessage(upload=upload)).json()["missing"]
    assert owner.client._call("POST", f"{door}/upload", message).json()["have"] == []
    assert owner.send(ask, content) == ""


def begin_second(
    coordinator: Coordinator, node: RawNode, other: RawNode, first: str, task: int
) -> tuple[str, tuple[int, int]]:
    """Another run for the same nodes, who still work on the first one."""
    for one in (node, other):
        assert one.poll(0.0).run == first
    second = start_run(coordinator.client, app_of(2, rounds=2))
    assert wait_until(lambda: len(coordinator.client.get(f"/v1/runs/{second}/events")) > 0)
    door = f"/v1/runs/{second}/tasks/{task}/upload"
    message = UploadMessage(size_bytes=1, parts=["0" * 64])
    assert wait_until(lambda: "have" in node.client._call("POST", door, message).json())
    return second, (task, task)


def test_a_node_whose_task_was_withdrawn_is_told_so_at_its_next_part_and_nothing_stays_of_it(
    coordinator: Coordinator, join: Join
):
    # Given two that are asked where one is wanted
    slow, quick = join(coordinator), join(coordinator, "south")
    run, (ask, other) = begin(coordinator, slow, quick, selector=Uniform(1), rules={"over_selection": 2.0}, rounds=2)
    content, link = update_for(slow, ask), hurt(slow.client)
    mine = upload_id(run, ask.task, "north", announced_digest(content))

    def overtake() -> None:
        assert quick.send(other, update_for(quick, other)) == ""
        assert wait_until(
            lambda: upload_id(run, ask.task, "north", announced_digest(content)) not in spooled(coordinator)
        )

    # When the other one is quicker
    at_part(link, 1, overtake)
    refused = slow.send(ask, content)
    # Then the slow one sends no more, and knows why
    assert "over before" in refused or "had gone on" in refused
    assert len(link.parts) == 2
    assert mine not in spooled(coordinator)


def announced_digest(content: bytes) -> str:
    """The digest of these bytes."""
    return parts.digest_of(len(content), parts.digests(content))


def test_a_node_whose_run_was_stopped_is_told_so_at_its_next_part_and_nothing_stays_of_it(
    coordinator: Coordinator, join: Join
):
    node, other = join(coordinator), join(coordinator, "south")
    run, (ask, _) = begin(coordinator, node, other)
    assert other.send(ask, update_for(other, ask)) == ""
    content, link = update_for(node, ask), hurt(node.client)
    at_part(link, 2, lambda: coordinator.client.post(f"/v1/runs/{run}/stop"))
    assert node.send(ask, content) == "the run is stopped"
    assert link.parts == [0, 1, 2]
    assert wait_until(lambda: spooled(coordinator) == set())


def test_a_round_that_missed_its_quorum_leaves_nothing_of_what_came_for_it(coordinator: Coordinator, join: Join):
    node, other = join(coordinator), join(coordinator, "south")
    rules = {"quorum": 1.0, "retries": 0, "deadline_s": 1.0}
    run, (ask, _) = begin(coordinator, node, other, rules=rules)
    content = update_for(other, ask)
    node.send(ask, update_for(node, ask))
    other.client._call("POST", f"/v1/runs/{run}/tasks/{ask.task}/upload", announced(content))
    assert wait_until(lambda: facts(coordinator, run)["state"] == "paused")
    assert "missed" in facts(coordinator, run)["records"][0]
    assert wait_until(lambda: spooled(coordinator) == set())


def test_a_coordinator_that_knows_an_upload_no_more_gets_it_anew(coordinator: Coordinator, join: Join):
    node = join(coordinator)
    run, (ask,) = begin(coordinator, node)
    content, link = update_for(node, ask), hurt(node.client)

    def lose() -> None:
        for path in (coordinator.home / "spool").iterdir():
            path.unlink()

    at_part(link, 2, lose)
    assert node.send(ask, content) == ""
    assert link.parts == [0, 1, *range(parts.count(len(content)))]
    assert wait_over(coordinator, run, node)["records"][0]["survivors"] == ["north"]


def test_of_two_who_send_the_same_update_at_once_both_are_told_that_it_counts(
    coordinator: Coordinator, join: Join, tmp_path: Path
):
    node = join(coordinator)
    run, (ask,) = begin(coordinator, node)
    content, said = update_for(node, ask), []
    with closing(again(node, tmp_path / "north")) as twin:
        (tmp_path / "north" / "update").write_bytes(content)
        threads = [
            threading.Thread(
                target=lambda one=one: said.append(
                    one.client.upload_update(run, ask.task, tmp_path / "north" / "update")
                )
            )
            for one in (node, twin)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The second one may come when the round is over: then it is told that, as after any lost answer.
        assert "" in said
        assert len(said) == 2
        assert wait_over(coordinator, run, node)["records"][0]["survivors"] == ["north"]


def test_an_update_that_is_being_heard_is_not_replaced_by_what_its_node_announces_meanwhile(
    coordinator: Coordinator, join: Join, monkeypatch: pytest.MonkeyPatch
):
    # Given an update that is delivered, and about to be heard
    node, other = join(coordinator), join(coordinator, "south")
    run, (ask, _) = begin(coordinator, node, other)
    content, answers, heard = update_for(node, ask), [], threading.Event()
    door = f"/v1/runs/{run}/tasks/{ask.task}/upload"
    real = hearing.hear

    def hear(*said: object) -> object:
        heard.set()
        return real(*said)

    monkeypatch.setattr(hearing, "hear", hear)

    def announce_other() -> None:
        heard.wait(20)  # When its node announces other bytes for the same task at this moment
        answers.append(node.client._call("POST", door, announced(content[::-1])).json())

    thread = threading.Thread(target=announce_other)
    thread.start()
    assert node.send(ask, content) == ""
    thread.join()
    # Then what was heard is still there when the model is made of it
    assert answers[0]["refused"] == ""
    assert wait_over(coordinator, run, node, other)["records"][0]["survivors"] == ["north", "south"]


def test_an_update_that_was_announced_by_parts_and_came_in_one_call_is_there_when_the_round_closes(
    coordinator: Coordinator, join: Join, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parts, "PART_BYTES", 1 << 20)
    node = join(coordinator)
    run, (ask,) = begin(coordinator, node)
    content = update_for(node, ask)
    node.client._call("POST", f"/v1/runs/{run}/tasks/{ask.task}/upload", announced(content))
    monkeypatch.setattr(client_module, "INLINE_BYTES", 1 << 20)
    assert node.send(ask, content) == ""
    found = wait_over(coordinator, run, node)
    assert (found["state"], found["records"][0]["survivors"]) == ("finished", ["north"])
    assert wait_until(lambda: spooled(coordinator) == set())


# ----------------------------------------------------------------------------------------------------------- and limits


def test_a_node_that_finds_no_place_waits_for_one_that_a_silent_sender_leaves(
    limited: Callable[[Limits], Coordinator], join: Join, monkeypatch: pytest.MonkeyPatch
):
    # Given a coordinator that takes one body at a time, and a sender that trickles
    began, over, real = threading.Event(), threading.Event(), Presence.heard

    def heard(self: Presence, name: str, size: int) -> None:
        real(self, name, size)
        if name == "south":  # it has the place
            began.set()

    monkeypatch.setattr(Presence, "heard", heard)
    coordinator = limited(Limits(silence_s=1.0, bodies=1))
    node, slow = join(coordinator), join(coordinator, "south")
    run, (ask, other) = begin(coordinator, node, slow)
    content, theirs, link = update_for(node, ask), update_for(slow, other), hurt(node.client)
    door, message = f"/v1/runs/{run}/tasks/{other.task}/upload", announced(theirs)
    upload, statuses = slow.client._call("POST", door, message).json()["upload"], list[int]()

    def was_sent_away() -> bool:
        return any(method == "PUT" and status in (429, LOST) for method, _, status in link.calls)

    def trickle() -> Iterator[bytes]:
        for byte in theirs[: PART - 1]:
            yield bytes([byte])
            if was_sent_away():
                break
            over.wait(0.02)
        over.wait(20)  # and says no more

    def send_slowly() -> None:
        headers = slow.client._headers(True) | {"x-part-digest": message.parts[0], "content-length": str(PART)}
        try:
            statuses.append(slow.client._link.call("PUT", f"{door}/{upload}/0", headers=headers, body=trickle()).status)
        except LinkFailed:
            statuses.append(0)

    began.clear()  # it was heard of before, when it fetched what it needed
    thread = threading.Thread(target=send_slowly)
    thread.start()
    assert began.wait(20)
    # When another node sends its update, then it is told to come again until the silent one has lost its place
    assert node.send(ask, content) == ""
    assert was_sent_away()
    over.set()
    thread.join()
    assert statuses != [200]
    # And the one that went silent may come again
    assert slow.send(other, theirs) == ""
    assert wait_over(coordinator, run, node, slow)["records"][0]["survivors"] == ["north", "south"]


@pytest.mark.parametrize("where", ["lycia.storage.spool.reserve", "lycia.storage.spool.pwrite_all"])
def test_a_node_waits_while_the_coordinators_disk_is_full_and_goes_on_when_there_is_room(
    where: str, coordinator: Coordinator, join: Join, monkeypatch: pytest.MonkeyPatch
):
    node = join(coordinator)
    run, (ask,) = begin(coordinator, node)
    content, link, refusals = update_for(node, ask), hurt(node.client), []
    module, _, name = where.rpartition(".")
    real = getattr(__import__(module, fromlist=[name]), name)

    def full(*said: object) -> None:
        if len(refusals) < 3:
            refusals.append(where)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*said)

    monkeypatch.setattr(where, full)
    assert node.send(ask, content) == ""
    assert [status for _, _, status in link.calls].count(507) == 3
    assert wait_over(coordinator, run, node)["records"][0]["survivors"] == ["north"]
    assert wait_until(lambda: spooled(coordinator) == set())


# -------------------------------------------------------------------------------------------------------- after a crash


def test_a_restart_removes_what_a_crash_left_and_keeps_what_is_of_use(coordinator: Coordinator, join: Join):
    node, other, third = (join(coordinator, name) for name in ("north", "south", "west"))
    run, (ask, *_) = begin(coordinator, node, other, third)
    assert node.send(ask, update_for(node, ask)) == ""  # named by the journal
    half, link = update_for(other, ask), hurt(other.client)

    def die() -> None:
        raise Killed

    at_part(link, 1, die)
    with pytest.raises(Killed):
        other.send(ask, half)
    wanted = spooled(coordinator)
    assert len(wanted) == 2
    coordinator.stop()
    for name in ("ab" * 32, "cd" * 32 + ".arriving"):
        (coordinator.home / "spool" / name).write_bytes(b"left behind")
    lost = Upload("a-run-that-is-no-more", 7, "north", 5, ("0" * 64,))
    keep_row(coordinator.home, lost)
    coordinator.start()
    assert spooled(coordinator) == wanted
    assert lost.id not in rows_of(coordinator.home)
    link.before = lambda *_: None
    assert other.send(ask, half) == ""
    assert link.parts == list(range(parts.count(len(half))))
    assert wait_over(coordinator, run, node, other, third)["records"][0]["survivors"] == ["north", "south", "west"]
    assert wait_until(lambda: spooled(coordinator) == set() and rows_of(coordinator.home) == set())


def keep_row(home: Path, upload: Upload) -> None:
    """Put it into the database of a coordinator that does not run."""
    import asyncio

    with closing(Database(sqlite_url(home / "lycia.db"))) as database:
        asyncio.run(database.write(lambda connection: note_upload(connection, upload)))


def rows_of(home: Path) -> set[str]:
    """The uploads that the database knows."""
    import sqlite3

    with closing(sqlite3.connect(home / "lycia.db")) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM uploads")}


# -------------------------------------------------------------------------------------------------- an operator's files


def test_a_model_that_is_there_already_is_not_sent_again(coordinator: Coordinator, tmp_path: Path):
    path, link = tmp_path / "model", hurt(coordinator.client)
    path.write_bytes(np.arange(1000, dtype=np.float32).tobytes())
    digest = coordinator.client.upload_file(path)
    assert digest == announced_digest(path.read_bytes())
    sent = len(link.parts)
    assert sent == parts.count(4000)
    assert coordinator.client.upload_file(path) == digest
    assert len(link.parts) == sent
    assert wait_until(lambda: spooled(coordinator) == set())


def test_a_model_whose_last_answer_was_lost_is_there_all_the_same(coordinator: Coordinator, tmp_path: Path):
    path, client = tmp_path / "model", coordinator.client
    path.write_bytes(bytes(10_000))

    class Loses(Hurt):
        def call(self, method: str, path: str, **more: object):
            response = super().call(method, path, **more)
            if path == "/v1/blobs" and not self.ranges:
                self.ranges.append("lost")
                raise LinkFailed("after it was heard")
            return response

    client._link = Loses(client._link)
    assert client.upload_file(path) == announced_digest(bytes(10_000))


def test_an_operator_whose_coordinator_was_restarted_in_the_middle_of_a_model_sends_it_all_the_same(
    coordinator: Coordinator, tmp_path: Path
):
    path, operator = tmp_path / "model", coordinator.client
    path.write_bytes(bytes(range(256)) * 64)
    operator._parallel, link = 1, hurt(operator)

    def restart() -> None:
        coordinator._thread, thread = None, coordinator._thread
        coordinator._loop.call_soon_threadsafe(coordinator._task.cancel)
        thread.join(20)
        coordinator.start()

    at_part(link, 2, restart)
    with closing(operator):
        assert operator.upload_file(path) == announced_digest(path.read_bytes())


def test_a_full_disk_is_told_to_an_operator_at_once(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lycia.storage.spool.reserve", full)
    (tmp_path / "model").write_bytes(bytes(10_000))
    with pytest.raises(StorageError, match="no room left"):
        coordinator.client.upload_file(tmp_path / "model")


def test_what_a_node_sends_is_paced_and_nobody_elses_pace_is_touched(
    limited: Callable[[Limits], Coordinator], join: Join, monkeypatch: pytest.MonkeyPatch
):
    moved: list[tuple[str, int]] = []
    real = Transfers._moved

    async def noted(self: Transfers, sender: str, size: int) -> None:
        moved.append((sender, size))
        await real(self, sender, size)

    monkeypatch.setattr(Transfers, "_moved", noted)
    coordinator = limited(Limits(node_bytes_s=1e9))
    node = join(coordinator)
    _, (ask,) = begin(coordinator, node)
    content = update_for(node, ask)
    assert node.send(ask, content) == ""
    assert sum(size for name, size in moved if name == "north") == len(content)
