"""A disk without room: the step that needed it fails in words, leaves nothing behind, and can be made again."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from lycia.errors import StorageError
from lycia.runtime.ports import Store
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Database, set_setting, setting, sqlite_url
from tests.storage.material import (
    Call,
    DatabasePlace,
    FolderPlace,
    Place,
    append,
    asked,
    begin,
    in_bits,
    known_after,
    make,
    one_round,
    opened,
    what_it_knows,
)

STORY = [begin(), *one_round(0), append(opened(1))]


@contextmanager
def full_after(written: int, code: int = errno.ENOSPC) -> Iterator[None]:
    """A disk on which so many more bytes find room, and what is written past them is cut off."""
    real, room = os.write, written

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(code, os.strerror(code))
        done = real(descriptor, bytes(data)[:room])
        room -= done
        return done

    with mock.patch("os.write", write):
        yield


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_blob_that_finds_no_room_is_told_in_words_and_leaves_nothing(tmp_path: Path, code: int):
    blobs = BlobFolder(tmp_path)
    with full_after(5, code), pytest.raises(StorageError, match="no room left") as refused:
        blobs.put([b"12345", b"67890"])
    assert "free some space" in refused.value.do
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert blobs.open(blobs.put([b"12345", b"67890"])).tobytes() == b"1234567890"


def test_a_disk_that_fails_is_told_in_words(tmp_path: Path):
    with full_after(0, errno.EIO), pytest.raises(StorageError, match="cannot be used") as refused:
        BlobFolder(tmp_path).put([b"12345"])
    assert "disk" in refused.value.do


@pytest.mark.parametrize("room", [0, 100, 400, 900, 1400])
def test_a_store_goes_on_where_it_stopped_once_there_is_room_again(place: Place, room: int):
    store = place.open()
    with full_after(room):
        done, refused = calls_until_refused(store, STORY)
    assert "no room left" in refused
    assert in_bits(what_it_knows(place)) == in_bits(known_after(STORY[:done]))
    asyncio.run(store.resume())
    make(store, STORY[done:])
    assert in_bits(what_it_knows(place)) == in_bits(known_after(STORY))
    assert list(place.path.rglob("*.part")) == []
    assert list((place.blobs / "arriving").iterdir()) == []


def calls_until_refused(store: Store, calls: list[Call]) -> tuple[int, str]:
    """How many calls were made before one was refused, and with what words."""
    for done, call in enumerate(calls):
        try:
            make(store, [call])
        except StorageError as refused:
            return done, refused.what
    raise AssertionError("no call was refused")


def test_an_event_whose_write_failed_is_not_found_by_the_next_reader(tmp_path: Path):
    place = FolderPlace(tmp_path / "run")
    store = place.open()
    make(store, [begin(), append(opened(0))])
    with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "full")), pytest.raises(StorageError):
        make(store, [append(asked(0))])
    assert what_it_knows(place).events == (opened(0),)


def test_a_database_without_room_refuses_the_change_and_keeps_the_others(tmp_path: Path):
    with_room = Database(sqlite_url(tmp_path / "coordinator.db"))

    async def story() -> None:
        await with_room.write(lambda connection: set_setting(connection, "before", "1"))
        pages = await with_room.write(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar_one())
        await with_room.write(
            lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count={pages + 1}").close()
        )
        with pytest.raises(StorageError, match="no room left"):
            await with_room.write(lambda connection: set_setting(connection, "large", "x" * 1_000_000))
        await with_room.write(lambda connection: set_setting(connection, "after", "2"))
        for key, value in (("before", "1"), ("large", None), ("after", "2")):
            assert await with_room.read(lambda connection, key=key: setting(connection, key)) == value

    asyncio.run(story())
    with_room.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, where the system lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this system does not let us mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("kind", [FolderPlace, DatabasePlace])
def test_on_a_disk_that_fills_up_nothing_acknowledged_is_lost(small_disk: Path, kind: type[Place]):
    place, ballast, share = kind(small_disk / "run"), small_disk / "ballast", os.statvfs(small_disk)
    story = [begin(), *(call for number in range(100) for call in one_round(number))]
    store = place.open()
    make(store, story[:1])
    ballast.write_bytes(b"x" * (share.f_bavail * share.f_frsize - 65536))
    done, refused = calls_until_refused(store, story[1:])
    assert "no room left" in refused
    ballast.unlink()
    assert in_bits(what_it_knows(place)) == in_bits(known_after(story[: 1 + done]))
    asyncio.run(store.resume())
    make(store, [append(opened(99))])
    assert what_it_knows(place).events[-1] == opened(99)
    place.stop()
