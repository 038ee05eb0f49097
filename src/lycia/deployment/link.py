"""One call over HTTPS, from this end: what goes out, what comes back, and that a connection was lost.

Whoever calls decides what to do about a lost connection; every call of the protocol may be repeated. A link keeps its
connections for the calls that come next. Bodies are sent from where they lie, and read piece by piece into one buffer:
the standard library does that at less than half the cost of any client with a richer face.
"""

import http.client
import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from lycia.deployment.identity import client_context

_PIECE_BYTES = 1 << 18
_PORT = 443
_PROXY_PORT = 8080

Body = bytes | memoryview | Iterable[bytes | memoryview]
Into = Callable[[memoryview], None]


class LinkFailed(Exception):
    """The connection was lost, or nothing came for too long; whether the other side did as asked is unknown."""


@dataclass(frozen=True)
class Response:
    """What came back; the names of `headers` are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)


class Link(Protocol):
    """A way to one coordinator."""

    def call(
        self, method: str, path: str, *, headers: Mapping[str, str], body: Body = b"", into: Into | None = None,
        silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        """Make one call.

        Args:
          path: with its query.
          headers: with a `content-length`, if the body is an iterable.
          into: gets the body of an answer that is good, piece by piece; each piece only until it returns.
          silence_s: how long nothing may come or go.
        Raises: LinkFailed.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class HttpsLink:
    """A `Link` over TLS to the one certificate that is known, through the system's proxy where it has one.

    Any number of threads may call at once; connections are kept for the next calls.
    """

    def __init__(self, url: str, certificate: str) -> None:
        self._to = urlsplit(url)
        self._context = client_context(certificate)
        self._idle: list[http.client.HTTPSConnection] = []
        self._busy: set[http.client.HTTPSConnection] = set()
        self._lock = threading.Lock()

    def call(
        self, method: str, path: str, *, headers: Mapping[str, str], body: Body = b"", into: Into | None = None,
        silence_s: float = 30.0,
    ) -> Response:  # fmt: skip
        """As `Link.call`."""
        connection = self._take()
        is_good = False
        try:
            connection.timeout = silence_s
            if connection.sock is not None:
                connection.sock.settimeout(silence_s)
            connection.request(method, path, body=body, headers=dict(headers))
            answer = connection.getresponse()
            content = _read_into(answer, into) if into is not None and answer.status < 300 else answer.read()
            is_good = not answer.will_close
        except (OSError, http.client.HTTPException) as error:
            raise LinkFailed(f"{type(error).__name__}: {error}") from error
        finally:  # of a call that was interrupted, too, what comes next on its connection belongs to it
            self._give_back(connection, is_good)
        return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def close(self) -> None:
        """Hang up, all connections; a thread that is in a call loses it."""
        with self._lock:
            connections, self._idle = [*self._idle, *self._busy], []
        for connection in connections:
            connection.close()

    def _take(self) -> http.client.HTTPSConnection:
        with self._lock:
            connection = self._idle.pop() if self._idle else self._new()
            self._busy.add(connection)
        return connection

    def _give_back(self, connection: http.client.HTTPSConnection, is_good: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if is_good:
                self._idle.append(connection)
        if not is_good:
            connection.close()

    def _new(self) -> http.client.HTTPSConnection:
        host, port = self._to.hostname or "", self._to.port or _PORT
        proxy = None if proxy_bypass(host) else getproxies().get("https")
        if proxy is None:
            return http.client.HTTPSConnection(host, port, context=self._context, blocksize=_PIECE_BYTES)
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        connection = http.client.HTTPSConnection(
            via.hostname or "", via.port or _PROXY_PORT, context=self._context, blocksize=_PIECE_BYTES
        )
        login = f"{unquote(via.username)}:{unquote(via.password or '')}" if via.username else ""
        secret = {"proxy-authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
        connection.set_tunnel(host, port, secret)
        return connection


def _read_into(answer: http.client.HTTPResponse, into: Into) -> bytes:
    buffer, expected = memoryview(bytearray(_PIECE_BYTES)), answer.length
    while got := answer.readinto(buffer):
        into(buffer[:got])
        expected = None if expected is None else expected - got
    if expected:
        raise http.client.IncompleteRead(b"", expected)
    return b""
