"""Calls made by hand over one connection: for what no client of ours would do, and to see what comes back."""

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from lycia.deployment.identity import Identity, client_context


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as data."""
        return json.loads(self.body)


@dataclass
class ByHand:
    """Somebody who calls a coordinator; without an identity, a stranger."""

    url: str
    certificate: str
    name: str = ""
    identity: Identity | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, body: bytes | Iterator[bytes] = b"", **headers: str) -> Answer:
        """One call, on a connection of its own."""
        with self.connected() as connection:
            return self.ask(connection, method, path, body, **headers)

    def ask(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | Iterator[bytes] = b"",
        **headers: str,
    ) -> Answer:  # fmt: skip
        """One call on a connection that is there."""
        said = {**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        connection.request(method, path, body, said, encode_chunked=not isinstance(body, bytes))
        came = connection.getresponse()
        return Answer(came.status, {name.lower(): value for name, value in came.getheaders()}, came.read())

    @contextmanager
    def connected(self) -> Iterator[http.client.HTTPConnection]:
        """A connection."""
        place = urlsplit(self.url)
        assert place.hostname is not None
        if place.scheme == "http":
            connection: Any = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
        else:
            context = client_context(self.certificate)
            connection = http.client.HTTPSConnection(place.hostname, place.port, timeout=30, context=context)
        with closing(connection):
            yield connection

    def sign_in(self) -> "ByHand":
        """Get a bearer, and bring it along from now on."""
        assert self.identity is not None
        nonce = self.call("POST", "/v1/challenge", json.dumps({"name": self.name}).encode()).json()["nonce"]
        signature = self.identity.sign("lycia session", self.name.encode(), nonce.encode())
        said = json.dumps({"name": self.name, "nonce": nonce, "signature": signature}).encode()
        self.headers["authorization"] = f"Bearer {self.call('POST', '/v1/session', said).json()['bearer']}"
        return self

    def stream(self, path: str, most: int | None = None, **headers: str) -> list[dict[str, str]]:
        """The events of a stream, to its end or so many of them; those that only say that it is there left out."""
        events: list[dict[str, str]] = []
        with self.connected() as connection:
            connection.request(
                "GET",
                path,
                headers={**self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}},
            )
            came, block = connection.getresponse(), dict[str, str]()
            while (most is None or len(events) < most) and (line := came.readline().decode()):
                name, _, value = line.rstrip("\n").partition(": ")
                if name:
                    block[name] = value
                elif block:
                    events += [{"id": "", **block}] if block.get("event") not in (None, "here") else []
                    block = {}
        return events


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
