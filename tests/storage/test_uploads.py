"""What comes by parts: what was acknowledged is there after whatever befalls the coordinator, and nothing else is."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lycia.deployment.coordinator.presence import Presence
from lycia.deployment.coordinator.transfers import Busy, Limits, Silent, TooLarge, Transfers
from lycia.errors import NotFound, StorageError
from lycia.storage import parts, uploads
from lycia.storage.database import Database, sqlite_url
from lycia.storage.spool import Spool
from lycia.storage.uploads import Upload, upload_id
from tests.storage.killing import Killed, Killer

PART = 8
CONTENT = bytes(range(3 * PART + 3))  # three parts, and a short one
OTHER = CONTENT[::-1]
T = TypeVar("T")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", PART)


class Place:
    """A folder with a database and a spool, and the transfers of one process after another."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self.folder, self.at_s, self.began = folder, 0.0, asyncio.Event()
        self.database, self.spool = Database(sqlite_url(folder / "lycia.db")), Spool(folder / "spool")
        self.limits = limits or Limits()
        self.transfers = self.next_process()

    def next_process(self) -> Transfers:
        """One that knows nothing but what is on the disk."""
        self.transfers = Transfers(
            self.database, self.spool, lambda: self.at_s, lambda *_: self.began.set(), self.limits
        )
        return self.transfers

    def close(self) -> None:
        """Let go of the database."""
        self.database.close()

    @property
    def files(self) -> set[str]:
        """What lies in the spool."""
        return set(self.spool.handles())

    def rows(self) -> dict[str, frozenset[int]]:
        """Each upload that the database knows, with its parts that are here."""

        def all_of(connection: object) -> dict[str, frozenset[int]]:
            return {id: uploads.arrived(connection, id) for id, _ in uploads.all_uploads(connection)}

        return asyncio.run(self.database.read(all_of))

    async def send(self, content: bytes, number: int, sender: str = "north", says: bytes | None = None) -> bool:
        """Send a part of what was announced as `content`; `says`: what really comes."""
        upload = announced(content, sender)
        part = content[parts.place(len(content), number)] if says is None else says
        return await self.transfers.part(sender, upload.id, number, upload.parts[number], body(part))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """One for each test."""
    found = Place(tmp_path)
    yield found
    found.close()


def announced(content: bytes, node: str = "north", task: int = 7, run: str = "a-run") -> Upload:
    """The upload of these bytes."""
    return Upload(run, task, node, len(content), parts.digests(content))


async def body(content: bytes, size: int = 3) -> AsyncIterator[bytes]:
    """A body that comes in small pieces."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


def play(story: Callable[[], Awaitable[T]]) -> T:
    """Hold it in a loop of its own; it must not hang."""

    async def timed() -> T:
        return await asyncio.wait_for(story(), 60)

    return asyncio.run(timed())


async def whole(place: Place, content: bytes) -> None:
    """Announce it and send what is missing, as a node does."""
    have = await place.transfers.announce(announced(content))
    for number in range(parts.count(len(content))):
        if number not in have:
            assert await place.send(content, number)


def test_parts_that_come_in_any_order_and_twice_make_the_file(place: Place):
    async def story() -> None:
        assert await place.transfers.announce(announced(CONTENT)) == []
        for number in (3, 1, 1, 0, 3, 2):
            assert await place.send(CONTENT, number)
        assert await place.transfers.announce(announced(CONTENT)) == [0, 1, 2, 3]

    play(story)
    assert place.spool.open(announced(CONTENT).id) == CONTENT
    assert place.rows() == {announced(CONTENT).id: frozenset(range(4))}


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["part", "damaged", "process", "announce"]), st.integers(0, 3)), max_size=12
    )
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_what_is_said_to_be_here_has_the_bytes_that_were_announced(
    steps: list[tuple[str, int]], place: Place
):
    upload, good = announced(CONTENT), set()

    async def story() -> None:
        await place.transfers.drop("a-run", None, ())
        await place.transfers.announce(upload)
        for step, number in steps:
            if step == "part":
                assert await place.send(CONTENT, number)
                good.add(number)
            elif step == "damaged":
                whole = await place.send(CONTENT, number, says=OTHER[parts.place(len(CONTENT), number)])
                assert whole == (number in good)  # what is here is not written again
            elif step == "process":
                place.next_process()
            else:
                assert await place.transfers.announce(upload) == sorted(good)
        assert (await place.transfers.find("north", upload.id)).have == good

    play(story)
    content = bytes(place.spool.open(upload.id))
    for number in good:
        assert content[parts.place(len(CONTENT), number)] == CONTENT[parts.place(len(CONTENT), number)]


@pytest.mark.parametrize("says", [OTHER[:PART], CONTENT[: PART - 1], b""], ids=["other bytes", "shorter", "nothing"])
def test_a_part_that_is_not_what_was_announced_is_not_noted_and_may_come_again(place: Place, says: bytes):
    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        assert not await place.send(CONTENT, 0, says=says)
        assert await place.transfers.announce(announced(CONTENT)) == []
        await whole(place, CONTENT)

    play(story)
    assert place.spool.open(announced(CONTENT).id) == CONTENT


def test_a_part_that_is_longer_than_announced_is_refused_in_words_and_runs_into_no_other(place: Place):
    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        assert await place.send(CONTENT, 1)
        with pytest.raises(TooLarge, match=f"larger than {PART} bytes"):
            await place.send(CONTENT, 0, says=OTHER)
        await whole(place, CONTENT)

    play(story)
    assert place.spool.open(announced(CONTENT).id) == CONTENT


def test_a_part_that_was_not_announced_is_refused_in_words(place: Place):
    async def story() -> None:
        upload = announced(CONTENT)
        await place.transfers.announce(upload)
        for number, digest in ((4, upload.parts[0]), (0, upload.parts[1]), (0, ""), (10**9, upload.parts[0])):
            with pytest.raises(NotFound, match="of this upload is not") as refused:
                await place.transfers.part("north", upload.id, number, digest, body(CONTENT[:PART]))
            assert "4 parts" in refused.value.why

    play(story)
    assert place.rows() == {announced(CONTENT).id: frozenset()}


def test_an_upload_is_nobody_elses(place: Place):
    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        for id in (announced(CONTENT).id, announced(OTHER).id, announced(CONTENT, "south").id, "../lycia.db", "0" * 64):
            with pytest.raises(NotFound, match="has announced no upload"):
                await place.transfers.part("south", id, 0, announced(CONTENT).parts[0], body(CONTENT[:PART]))
        await place.transfers.announce(announced(CONTENT, "south"))
        assert await place.send(CONTENT, 0, "south")

    play(story)
    assert place.rows() == {announced(CONTENT).id: frozenset(), announced(CONTENT, "south").id: frozenset({0})}


@given(
    fields=st.lists(st.tuples(st.text(max_size=4), st.integers(-1, 99), st.text(max_size=4)), min_size=2, max_size=5)
)
def test_no_two_uploads_share_a_name(fields: list[tuple[str, int, str]]):
    ids = {upload_id(*one, "digest") for one in fields} | {upload_id(*one, "other") for one in fields}
    assert len(ids) == 2 * len(set(fields))


def test_other_bytes_for_the_same_task_take_the_place_of_what_came_before(place: Place):
    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        await place.send(CONTENT, 0)
        for other in (announced(CONTENT, task=8), announced(CONTENT, "south"), announced(CONTENT, run="b-run")):
            await place.transfers.announce(other)
        assert await place.transfers.announce(announced(OTHER)) == []
        with pytest.raises(NotFound):
            await place.send(CONTENT, 1)
        assert await place.transfers.announce(announced(CONTENT)) == []  # and it begins anew where it comes back
        await whole(place, CONTENT)

    play(story)
    assert len(place.rows()) == len(place.files) == 4
    assert place.spool.open(announced(CONTENT).id) == CONTENT


def test_who_changes_the_size_of_what_it_announced_begins_anew_and_whoever_reads_the_old_bytes_still_does(place: Place):
    async def story() -> None:
        content = CONTENT[:PART]
        await whole(place, content)
        mapped = place.spool.open(announced(content).id)
        lie = replace(announced(content), size_bytes=2)  # of one part, whose digest is the file's
        assert lie.id == announced(content).id
        assert await place.transfers.announce(lie) == []
        assert mapped == content

    play(story)


def test_a_file_that_vanished_is_sent_again_though_the_database_has_its_parts(place: Place):
    async def story() -> None:
        await whole(place, CONTENT)
        (place.folder / "spool" / announced(CONTENT).id).unlink()
        assert await place.transfers.announce(announced(CONTENT)) == []
        await whole(place, CONTENT)

    play(story)
    assert place.spool.open(announced(CONTENT).id) == CONTENT


def test_a_part_for_a_file_that_vanished_is_not_taken_for_a_broken_disk(place: Place):
    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        (place.folder / "spool" / announced(CONTENT).id).unlink()
        with pytest.raises(NotFound, match="has announced no upload") as refused:
            await place.send(CONTENT, 0)
        assert "announce it again" in refused.value.do

    play(story)


def test_a_part_that_ends_after_its_upload_was_forgotten_leaves_nothing(place: Place):
    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        forgotten = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield CONTENT[:4]
            await forgotten.wait()
            yield CONTENT[4:PART]

        upload = announced(CONTENT)
        sending = asyncio.ensure_future(place.transfers.part("north", upload.id, 0, upload.parts[0], slow()))
        await place.began.wait()
        await place.transfers.drop("a-run", [7], ())
        forgotten.set()
        with pytest.raises(Silent):
            await sending

    play(story)
    assert (place.rows(), place.files) == ({}, set())


def test_what_is_dropped_is_gone_and_what_is_kept_or_of_another_task_is_not(place: Place):
    async def story() -> None:
        for upload in (announced(CONTENT), announced(CONTENT, "south"), announced(CONTENT, task=8)):
            await place.transfers.announce(upload)
        await place.transfers.drop("a-run", [7], {announced(CONTENT, "south").id})

    play(story)
    left = {announced(CONTENT, "south").id, announced(CONTENT, task=8).id}
    assert (set(place.rows()), place.files) == (left, left)


def test_a_sweep_leaves_what_is_held_and_what_is_on_its_way_and_nothing_else(place: Place):
    sum_of_some = "ab" * 32

    async def story() -> None:
        await whole(place, CONTENT)
        await place.transfers.announce(announced(CONTENT, run="over"))
        await place.transfers.announce(announced(CONTENT, run="", task=-1))
        place.spool.put(sum_of_some, [b"sum"])
        place.spool.put("cd" * 32, [b"nobody's"])
        (place.folder / "spool" / ("ef" * 32 + ".arriving")).write_bytes(b"half")
        await place.next_process().sweep({sum_of_some}, {"a-run", "another"})
        assert await place.transfers.announce(announced(CONTENT)) == [0, 1, 2, 3]

    play(story)
    assert place.files == {sum_of_some, announced(CONTENT).id}
    assert set(place.rows()) == {announced(CONTENT).id}


# ------------------------------------------------------------------------------------------------------ killed, or full


def killed_at(last: int, folder: Path) -> tuple[set[int], bool]:
    """What a process that is killed at this file operation acknowledges of a file, and whether it came to its end."""
    place, acknowledged = Place(folder), set()

    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        for number in (2, 0, 3, 1):
            assert await place.send(CONTENT, number)
            acknowledged.add(number)

    try:
        with Killer(last).watching():
            play(story)
    except (Killed, StorageError):
        return acknowledged, False
    finally:
        place.close()
    return acknowledged, True


def test_what_was_acknowledged_is_there_after_a_kill_at_any_moment_and_the_rest_comes_again(tmp_path: Path):
    last, ended = 0, False
    while not ended:
        folder = tmp_path / str(last)
        folder.mkdir()
        acknowledged, ended = killed_at(last, folder)
        place = Place(folder)

        async def story(place: Place = place, acknowledged: set[int] = acknowledged) -> None:
            await place.transfers.sweep((), {"a-run"})
            have = await place.transfers.announce(announced(CONTENT))
            assert acknowledged <= set(have)
            content = bytes(place.spool.open(announced(CONTENT).id))
            for number in have:
                assert content[parts.place(len(CONTENT), number)] == CONTENT[parts.place(len(CONTENT), number)]
            await whole(place, CONTENT)
            assert place.spool.open(announced(CONTENT).id) == CONTENT
            await place.transfers.drop("a-run", None, ())

        play(story)
        assert (place.files, place.rows()) == (set(), {})
        place.close()
        last += 1
    assert last > 8


def test_an_update_that_comes_in_one_piece_is_there_whole_or_not_at_all_after_a_kill(tmp_path: Path):
    handle, last, ended = "ab" * 32, 0, False
    while not ended:
        spool, killer = Spool(tmp_path / str(last)), Killer(last)
        acknowledged = False
        try:
            with killer.watching():
                spool.put(handle, [CONTENT[:5], memoryview(CONTENT[5:])])
                acknowledged = True
        except Killed:
            pass
        is_there = handle in set(spool.handles())
        assert is_there or not acknowledged
        assert not is_there or spool.open(handle) == CONTENT
        spool.sweep([handle])
        assert set(spool.handles()) <= {handle}
        ended, last = acknowledged, last + 1
    assert killer.done[-2:] == ["replace", "fsync"]
    assert killer.done.count("fsync") == 2


def test_a_part_is_on_the_disk_before_it_is_noted(place: Place, monkeypatch: pytest.MonkeyPatch):
    killer, seen = Killer(None), []
    noted = uploads.note_part
    monkeypatch.setattr(uploads, "note_part", lambda *said: seen.append(list(killer.done)) or noted(*said))

    async def story() -> None:
        await place.transfers.announce(announced(CONTENT))
        with killer.watching():
            await place.send(CONTENT, 0)

    play(story)
    assert [set(done[:-1]) for done in seen] == [{"pwrite"}]
    assert seen[0][-1] == "fsync"


@pytest.mark.parametrize("operation", ["posix_fallocate", "ftruncate"])
def test_an_upload_that_finds_no_room_is_told_so_and_leaves_nothing(
    place: Place, operation: str, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def story() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(os, operation, full)
            with pytest.raises(StorageError, match="no room left"):
                await place.transfers.announce(announced(CONTENT))
            assert place.files == set()
        await whole(place, CONTENT)

    if hasattr(os, operation):
        play(story)
        assert place.spool.open(announced(CONTENT).id) == CONTENT


def test_an_update_that_finds_no_room_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageError, match="no room left"):
            place.spool.put("ab" * 32, [CONTENT])
    assert place.files == set()


def test_an_update_that_is_gone_is_told_in_words(place: Place):
    with pytest.raises(StorageError, match="is gone") as refused:
        place.spool.open("ab" * 32)
    assert "backup" in refused.value.do
    for name in ("../lycia.db", "AB" * 32, "", "ab" * 32 + "\n"):
        with pytest.raises(NotFound, match="not the handle"):
            place.spool.open(name)


# -------------------------------------------------------------------------------------------------- what senders may do


def test_of_two_who_send_the_same_part_the_later_one_goes_on_when_the_earlier_one_stops(place: Place):
    place.limits = Limits(silence_s=0.05)
    place.next_process()
    upload = announced(CONTENT)

    async def story() -> None:
        async def stalls() -> AsyncIterator[bytes]:
            yield OTHER[:4]
            await asyncio.Event().wait()

        await place.transfers.announce(upload)
        first = asyncio.ensure_future(place.transfers.part("north", upload.id, 0, upload.parts[0], stalls()))
        await place.began.wait()
        assert await place.send(CONTENT, 0)
        with pytest.raises(Silent):
            await first
        await whole(place, CONTENT)

    play(story)
    assert place.spool.open(upload.id) == CONTENT


def test_a_body_that_waits_for_a_place_is_told_to_come_back_and_gets_one_when_it_is_free(place: Place):
    place.limits = Limits(silence_s=0.1, bodies=1)
    place.next_process()

    async def story() -> None:
        freed = asyncio.Event()

        async def trickles() -> AsyncIterator[bytes]:
            while not freed.is_set():
                yield b"x"
                await asyncio.sleep(0)

        first = asyncio.ensure_future(place.transfers.small("south", trickles(), 1 << 30))
        await place.began.wait()
        with pytest.raises(Busy):
            await place.transfers.small("north", body(CONTENT), 1 << 30)
        freed.set()
        await first
        assert await place.transfers.small("north", body(CONTENT), 1 << 30) == CONTENT

    play(story)


def test_the_place_of_a_body_that_went_silent_or_broke_off_is_free_again(place: Place):
    place.limits = Limits(silence_s=0.05, bodies=1)
    place.next_process()

    async def stalls() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async def breaks() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError

    async def story() -> None:
        for bad, error in ((stalls, Silent), (breaks, ConnectionResetError), (stalls, Silent)):
            with pytest.raises(error):
                await place.transfers.small("north", bad(), 1 << 30)
            assert await place.transfers.small("north", body(CONTENT), 1 << 30) == CONTENT

    play(story)


def test_a_node_that_trickles_and_says_nothing_else_is_not_lost_while_it_does(place: Place):
    now = [0.0]
    presence = Presence(10.0, lambda: now[0])
    transfers = Transfers(place.database, place.spool, lambda: now[0], presence.heard)
    lost = []

    async def trickles() -> AsyncIterator[bytes]:
        for _ in range(10):
            now[0] += 9.0
            lost.append(presence.is_lost("north"))
            yield b"x"

    async def story() -> None:
        await presence.saw("north", "node")
        assert await transfers.small("north", trickles(), 100) == b"x" * 10

    play(story)
    assert lost == [False] * 10
    now[0] += 10.0
    assert presence.is_lost("north")
    assert presence.seen("north")[1] == 10


def test_nobody_who_announces_meets_somebody_who_delivers_for_the_same_task(place: Place):
    async def story() -> None:
        order = []

        async def turn(name: str, node: str) -> None:
            async with place.transfers.alone("a-run", 7, node):
                order.append(f"{name} begins")
                for _ in range(3):
                    await asyncio.sleep(0)
                order.append(f"{name} ends")

        await asyncio.gather(turn("one", "north"), turn("two", "north"), turn("other", "south"))
        assert order.index("one ends") < order.index("two begins")
        assert order.index("other begins") < order.index("one ends")
        assert place.transfers._alone == {}

    play(story)
