"""The time that a round's bytes take by themselves: a plain script that moves and hashes them, and does nothing else.

One process serves, four processes call, over TLS 1.3 on loopback, with blocking sockets from the standard library and
large buffers. In each round every caller receives the same file, hashes it and writes it down; then it sends a file of
the same size, which it hashes too, and the server hashes it, writes it down and waits for the disk before it answers.
"""

import argparse
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

from lycia.deployment.identity import client_context, make_certificate

_BUFFER = 1 << 20


def rounds_of(home: Path, size_bytes: int, rounds: int, callers: int) -> list[float]:
    """How long each of so many rounds took, in seconds."""
    home.mkdir(parents=True)
    pem, private = make_certificate(("localhost", "127.0.0.1"))
    (home / "certificate.pem").write_bytes(pem)
    (home / "certificate.key").write_bytes(private)
    (home / "down").write_bytes(os.urandom(size_bytes))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(home / "certificate.pem", home / "certificate.key")
    command = [sys.executable, str(Path(__file__).resolve()), str(home), str(size_bytes)]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        processes = [
            subprocess.Popen([*command, str(number), port], stdin=subprocess.DEVNULL) for number in range(callers)
        ]
        connections = [context.wrap_socket(listener.accept()[0], server_side=True) for _ in processes]
        try:
            took = [_round(home, connections, size_bytes) for _ in range(rounds)]
        finally:
            for connection in connections:
                connection.close()
            for process in processes:
                process.wait(30)
    return took


def _round(home: Path, connections: list[ssl.SSLSocket], size_bytes: int) -> float:
    began_s = time.perf_counter()
    threads = [
        threading.Thread(target=_serve, args=(home, number, connection, size_bytes))
        for number, connection in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began_s


def _serve(home: Path, number: int, connection: ssl.SSLSocket, size_bytes: int) -> None:
    _send(connection, home / "down", hashed=False)
    _receive(connection, home / f"up {number}", size_bytes, durable=True)
    connection.sendall(b"k")


def _send(connection: ssl.SSLSocket, path: Path, *, hashed: bool) -> str:
    content, buffer = hashlib.sha256(), memoryview(bytearray(_BUFFER))
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            if hashed:
                content.update(buffer[:got])
            connection.sendall(buffer[:got])
    return content.hexdigest()


def _receive(connection: ssl.SSLSocket, path: Path, size_bytes: int, *, durable: bool) -> str:
    content, buffer, left = hashlib.sha256(), memoryview(bytearray(_BUFFER)), size_bytes
    with path.open("wb", buffering=0) as file:
        while left:
            got = connection.recv_into(buffer, min(left, _BUFFER))
            if not got:
                raise SystemExit("the connection ended in the middle of a file.")
            content.update(buffer[:got])
            file.write(buffer[:got])
            left -= got
        if durable:
            os.fsync(file.fileno())
    return content.hexdigest()


def _call(home: Path, size_bytes: int, number: int, port: int) -> None:
    """The life of a caller: rounds, until the server hangs up."""
    up = home / f"sent {number}"
    up.write_bytes(os.urandom(size_bytes))
    context = client_context((home / "certificate.pem").read_text())
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port))) as connection:
        while True:
            try:
                _receive(connection, home / f"model {number}", size_bytes, durable=False)
            except (SystemExit, OSError):
                return
            _send(connection, up, hashed=True)
            connection.recv(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (("home", Path), ("size", int), ("number", int), ("port", int)):
        parser.add_argument(name, type=kind)
    asked = parser.parse_args()
    _call(asked.home, asked.size, asked.number, asked.port)
