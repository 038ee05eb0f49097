"""The suite's own tools do what they say: links that break, disks without room, calls that come again."""

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.chaos import disks
from tests.chaos.disks import Flag, small_disk
from tests.chaos.links import Links
from tests.chaos.script import TROUBLES, script


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of somebody who says everything again."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=repeat, args=(connection,), daemon=True).start()

        def repeat(connection: socket.socket) -> None:
            with connection:
                try:
                    while piece := connection.recv(1 << 12):
                        connection.sendall(piece)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def all_of(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or what came before the end."""
    found = b""
    while len(found) < count and (piece := connection.recv(count - len(found))):
        found += piece
    return found


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_link_is_cut_after_exactly_so_many_bytes_and_can_be_used_again(way: Literal["up", "down"], echo: int):
    with Links(lambda: echo) as links:
        port = links.add("node")
        links.cut_after("node", way, 1000, "end")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"x" * 600)
            assert all_of(connection, 600) == b"x" * 600
            connection.sendall(b"x" * 600)
            rest = all_of(connection, 600)
            assert len(rest) == 400 if way == "down" else len(rest) <= 400
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"again")
            assert all_of(connection, 5) == b"again"


def test_a_link_that_is_reset_says_so(echo: int):
    with Links(lambda: echo) as links, socket.create_connection(("127.0.0.1", links.add("node"))) as connection:
        connection.sendall(b"hello")
        assert all_of(connection, 5) == b"hello"
        links.cut("node", "reset")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_link_that_stalls_loses_nothing(echo: int):
    with Links(lambda: echo) as links, socket.create_connection(("127.0.0.1", links.add("node"))) as connection:
        links.stall("node", on=True)
        connection.sendall(b"hello")
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)
        connection.setblocking(True)
        links.stall("node", on=False)
        assert all_of(connection, 5) == b"hello"


def test_a_disk_that_says_that_it_is_full_takes_so_much_more_and_then_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in disks.CALLS:
        monkeypatch.setattr(os, name, getattr(os, name))  # so that it is itself again afterwards
    flag = Flag(tmp_path / "full")
    disks.install(flag.path)
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    try:
        flag.fill(5)
        assert os.write(descriptor, b"12345") == 5
        with pytest.raises(OSError, match="No space") as refused:
            os.write(descriptor, b"6")
        assert refused.value.errno == errno.ENOSPC
        flag.free()
        assert os.write(descriptor, b"6") == 1
    finally:
        os.close(descriptor)


@pytest.mark.skipif(not disks.can_mount(), reason="mounts a file system")
def test_a_small_disk_is_full_until_there_is_room_again(tmp_path: Path):
    with small_disk(tmp_path / "disk") as disk:
        disk.fill(4096)
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "disk" / "file").write_bytes(bytes(1 << 16))
        disk.free()
        (tmp_path / "disk" / "file").write_bytes(bytes(1 << 16))


@pytest.mark.parametrize("kind", ["strict", "default"])
def test_a_seed_is_the_same_script_every_time(kind: Literal["strict", "default"]):
    assert script(kind, 3) == script(kind, 3)
    assert script(kind, 3) != script(kind, 4)
    assert {trouble for seed in range(200) for trouble in script(kind, seed).told()["faults"]} == set(TROUBLES)
