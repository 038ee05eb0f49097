"""`lycia serve`: the coordinator as a process."""

import asyncio
import ctypes
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvicorn

from lycia.deployment.coordinator.http import Doors
from lycia.deployment.coordinator.service import Service, system_entropy
from lycia.deployment.holding import held
from lycia.deployment.identity import Identity, certificate_pin, make_certificate, own_names, write_private
from lycia.deployment.operator import OperatorAccess
from lycia.errors import AccessError, StorageError
from lycia.runtime.ports import Entropy
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Database, sqlite_url
from lycia.storage.spool import Spool

_BACKLOG = 2048


@dataclass(frozen=True)
class Settings:
    """What `lycia serve` is started with.

    Attributes:
      host, port: where to listen; port 0 takes a free one.
      url: how nodes reach it, where that is not host and port (behind a proxy, or by a name).
      silence_s: after how long without a sign of life a node counts as vanished.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8443
    url: str = ""
    silence_s: float = 10.0


def serve(settings: Settings, ready: Callable[[str], None], entropy: Entropy = system_entropy) -> None:
    """Serve until interrupted. `ready` is called with the URL once nodes can connect.

    Raises: StorageError, if the port is taken or the folder cannot be used.
    """
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    _keep_receive_buffers()
    listener = _listen(settings.host, settings.port)
    settings.home.mkdir(parents=True, exist_ok=True)
    loop = asyncio.Runner(loop_factory=_fast_loop())
    with closing(listener), held(settings.home, "the coordinator"), loop as runner:
        runner.run(_serve(settings, listener, ready, entropy))


async def _serve(settings: Settings, listener: socket.socket, ready: Callable[[str], None], entropy: Entropy) -> None:
    home = settings.home
    url = settings.url or f"https://{_reached_as(settings.host)}:{listener.getsockname()[1]}"
    certificate, key = _certificate(home, settings.host)
    database = Database(sqlite_url(home / "lycia.db"))
    shutil.rmtree(home / "outgoing", ignore_errors=True)  # made for asks of another process; it is made again
    blobs, outgoing = BlobFolder(home / "blobs"), BlobFolder(home / "outgoing", fsync=False)
    pem = certificate.read_text()
    service = Service(
        database,
        blobs,
        outgoing,
        Spool(home / "spool"),
        url,
        certificate_pin(pem),
        _secret(home),
        silence_s=settings.silence_s,
        entropy=entropy,
    )
    await service.begin()
    await _enrol_operator(service, home)
    OperatorAccess(url, pem, "operator", "operator.pem").keep(home)
    config = uvicorn.Config(
        Doors(service, blobs, outgoing).app(), http="httptools", loop="auto", log_level="warning", access_log=False,
        ssl_certfile=str(certificate), ssl_keyfile=str(key), timeout_keep_alive=120, timeout_graceful_shutdown=2,
        lifespan="off", backlog=_BACKLOG,
    )  # fmt: skip
    server = _Server(config, lambda: ready(url), service.end)
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:  # where it is served as a task of a larger program
        await server.shutdown([listener])
        raise
    finally:
        await service.end()
        database.close()


async def _enrol_operator(service: Service, home: Path) -> None:
    try:
        await service.add_operator("operator", Identity.at(home / "operator.pem").public)
    except AccessError:
        raise AccessError(
            f"{home / 'operator.pem'} is not the key of this coordinator's operator.",
            why="its database knows the operator by another key: the file was lost, or replaced.",
            do="restore it from a backup; or begin anew in another folder (--home), where nodes join again.",
        ) from None


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # there is none for Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


class _Server(uvicorn.Server):
    """Says when it is ready, and lets go of long polls when it is told to stop."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], end: Callable[[], Awaitable[None]]) -> None:
        super().__init__(config)
        self._ready, self._end = ready, end

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._end()
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sets TCP_NODELAY
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # now, so that of two that come at once one is told
    except OSError as error:
        listener.close()
        raise StorageError(
            f"the coordinator cannot listen on {host}:{port} ({error.strerror}).",
            why="another process has that port, or the address is not one of this machine's.",
            do="give another one with --port (0 takes any free one) or --host.",
        ) from None
    return listener


def _reached_as(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _certificate(home: Path, host: str) -> tuple[Path, Path]:
    certificate, key = home / "certificate.pem", home / "certificate.key"
    if not certificate.exists():
        pem, private = make_certificate(own_names(host))
        write_private(key, private)
        write_private(certificate, pem)
    return certificate, key


def _secret(home: Path) -> bytes:
    path = home / "session.secret"
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    return path.read_bytes()


def _keep_receive_buffers() -> None:
    # glibc gives each 256 KB receive buffer back to the system at once; to keep them makes uploads much cheaper.
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
