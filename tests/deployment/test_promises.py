"""Disk space is promised before a round is asked: what was promised to one run is not promised to another."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from lycia.core.needs import Needs
from lycia.deployment.coordinator.promises import Promises
from lycia.deployment.operator import follow
from lycia.errors import StorageError
from tests.deployment.test_mailbox import Desk, play
from tests.deployment.test_run_states import Pair, pair

__all__ = ["pair"]


class Disk:
    """One disk, with a number of bytes that are free."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.promises = Promises(lambda _: self.free)

    def promise(self, run: str, folder: Path, size_bytes: int, arrived: int = 0) -> None:
        self.promises.promise(run, [(folder, size_bytes)], lambda: arrived)


def test_what_was_promised_to_one_run_is_not_there_for_another(tmp_path: Path):
    disk = Disk(10_000)
    disk.promise("one", tmp_path, 6000)
    with pytest.raises(StorageError, match=r"needs 5 KB on the disk of .*, and 4 KB are free"):
        disk.promise("two", tmp_path, 5000)
    disk.promise("two", tmp_path, 4000)
    disk.promises.end("one")
    disk.promise("three", tmp_path, 6000)


def test_a_run_is_promised_one_round_at_a_time(tmp_path: Path):
    disk = Disk(10_000)
    for _ in range(3):
        disk.promise("one", tmp_path, 9000)


def test_what_has_arrived_is_not_counted_twice(tmp_path: Path):
    disk = Disk(10_000)
    disk.promise("one", tmp_path, 6000, arrived=5000)
    disk.free -= 5000  # by what has arrived
    disk.promise("two", tmp_path, 4000)


def test_folders_of_one_disk_share_its_room(tmp_path: Path):
    disk = Disk(10_000)
    with pytest.raises(StorageError, match="needs 12 KB"):
        disk.promises.promise("one", [(tmp_path / "a", 6000), (tmp_path / "b", 6000)], lambda: 0)


def test_the_promise_of_a_run_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=10_000))

    async def story() -> None:
        one, promises = Desk(tmp_path / "one", run="one"), Promises()
        two = Desk(tmp_path / "two", run="two")
        one.box._promises = two.box._promises = promises
        await one.box.check_space(Needs(3000, 1000, 2000, 1000))
        with pytest.raises(StorageError, match="7 KB"):
            await two.box.check_space(Needs(3000, 1000, 2000, 1000))
        one.box.announced("an update", 3000)
        with pytest.raises(StorageError, match="6 KB are free"):
            await two.box.check_space(Needs(3000, 1000, 2000, 1000))
        one.box.dismiss()
        await two.box.check_space(Needs(3000, 1000, 2000, 1000))

    play(story)


def test_a_round_that_would_not_fit_is_not_asked_and_goes_on_once_there_is_room(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
):
    # Given a disk that is too full for a round, though nothing has failed yet
    total, free = 10**12, 10**8
    usage = SimpleNamespace(total=total, used=0, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    run = pair.start()
    assert follow(pair.coordinator.client, run, []) == "paused"
    # Then the run pauses before anybody is asked, and says what is missing and where
    state, reason = pair.state(run)
    assert state == "paused"
    assert "the next round needs" in reason
    assert "0 bytes are free" in reason
    assert str(pair.coordinator.home / "spool") in reason
    assert "lycia resume" in reason
    assert pair.facts(run)["records"] == []
    assert pair.north.poll(0.0) is None
    # When there is room again, it goes on
    usage.free = 10**11
    pair.turn(run, "resume")
    pair.finish(run)
    assert pair.state(run) == ("finished", "all rounds done")
