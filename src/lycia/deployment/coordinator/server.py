"""`lycia serve`: the coordinator as a process."""

import asyncio
import ctypes
import os
import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
import uvicorn

from lycia.deployment.coordinator.gate import Gate
from lycia.deployment.coordinator.http import Doors
from lycia.deployment.coordinator.service import Service, system_entropy
from lycia.deployment.coordinator.transfers import Limits
from lycia.deployment.holding import held
from lycia.deployment.identity import Identity, certificate_pin, make_certificate, own_names, write_private
from lycia.deployment.logs import format_for, write_logs
from lycia.deployment.operator import OperatorAccess
from lycia.errors import AccessError, StorageError
from lycia.runtime.ports import Entropy
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Database
from lycia.storage.homes import (
    BLOBS,
    CERTIFICATE,
    CERTIFICATE_KEY,
    OPERATOR_KEY,
    OUTGOING,
    SESSION_SECRET,
    SPOOL,
    database_of,
    note_database,
)
from lycia.storage.spool import Spool

_BACKLOG = 2048
_LAST_ANSWERS_S = 2.0
log = structlog.get_logger()


@dataclass(frozen=True)
class Settings:
    """What `lycia serve` is started with.

    Attributes:
      host, port: where to listen; port 0 takes a free one.
      url: how nodes reach it, where that is not host and port (behind a proxy, or by a name).
      database: its URL, where it is not a SQLite file in the folder, or the one that was used here before.
      silence_s: after how long without a sign of life a node counts as vanished.
      grace_s: how long a coordinator that is told to stop goes on with what is arriving.
      keep_rounds: how many of a run's newest rounds are kept, beside the first and the best; None for all.
      metrics: (host, port) where figures are given to Prometheus; None for nowhere.
      log_format: "json" or "text"; None for text on a terminal, and JSON elsewhere.
      node_rate: megabytes a second that each node may send, and be sent, at most; None for no cap.
    """

    home: Path
    host: str = "127.0.0.1"
    port: int = 8443
    url: str = ""
    silence_s: float = 10.0
    database: str = ""
    grace_s: float = 30.0
    keep_rounds: int | None = None
    metrics: tuple[str, int] | None = None
    log_format: str | None = None
    node_rate: float | None = None


def serve(settings: Settings, ready: Callable[[str], None], entropy: Entropy = system_entropy) -> None:
    """Serve until interrupted. `ready` is called with the URL once nodes can connect.

    The first SIGTERM or Ctrl-C drains: nobody is asked anything any more, what is arriving is finished, and then it
    ends. The second one ends it at once, as a SIGKILL may at any time: whatever was acknowledged is on the disk.

    Raises: StorageError, if a port is taken or the folder cannot be used.
    """
    write_logs(format_for(settings.log_format))
    _keep_receive_buffers()
    listener = _listen(settings.host, settings.port)
    settings.home.mkdir(parents=True, exist_ok=True)
    loop = asyncio.Runner(loop_factory=_fast_loop())
    with closing(listener), held(settings.home, "the coordinator"), loop as runner:
        runner.run(_serve(settings, listener, ready, entropy))


async def _serve(settings: Settings, listener: socket.socket, ready: Callable[[str], None], entropy: Entropy) -> None:
    home = settings.home
    url = settings.url or f"https://{_reached_as(settings.host)}:{listener.getsockname()[1]}"
    kept_in = database_of(home, settings.database)
    database = Database(kept_in)
    note_database(home, kept_in)
    certificate, key = _certificate(home, settings.host)
    shutil.rmtree(home / OUTGOING, ignore_errors=True)  # made for asks of another process; it is made again
    blobs, outgoing = BlobFolder(home / BLOBS), BlobFolder(home / OUTGOING, fsync=False)
    pem = certificate.read_text()
    service = Service(
        database,
        blobs,
        outgoing,
        Spool(home / SPOOL),
        url,
        certificate_pin(pem),
        _secret(home),
        silence_s=settings.silence_s,
        entropy=entropy,
        keep_rounds=settings.keep_rounds,
        limits=Limits(node_bytes_s=settings.node_rate and settings.node_rate * 1e6),
    )
    gate = Gate(Doors(service, blobs, outgoing).app(), service.health)
    async with AsyncExitStack() as stack:
        stack.callback(database.close)
        if settings.metrics is not None:
            # Before the runs go on, which may take a while: it says that they are starting.
            await stack.enter_async_context(_figures(settings.metrics, service, database, gate, home))
        stack.push_async_callback(service.end)
        await service.begin()
        await _enrol_operator(service, home)
        OperatorAccess(url, pem, "operator", OPERATOR_KEY).keep(home)
        config = uvicorn.Config(
            gate, http="httptools", loop="auto", log_level="warning", access_log=False, log_config=None,
            ssl_certfile=str(certificate), ssl_keyfile=str(key), timeout_keep_alive=120, timeout_graceful_shutdown=1,
            lifespan="off", backlog=_BACKLOG,
        )  # fmt: skip
        server = _Server(config, lambda: ready(url), lambda: _drain(service, gate, settings.grace_s), service.end)
        try:
            await server.serve(sockets=[listener])
        except asyncio.CancelledError:  # where it is served as a task of a larger program
            await server.shutdown([listener])
            raise


async def _drain(service: Service, gate: Gate, grace_s: float) -> None:
    """Finish what is arriving; after so many seconds, leave the rest to the coordinator that comes next."""
    log.info("draining", open_bodies=gate.open_bodies, grace_s=grace_s, again="ends it at once")
    service.drain()
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await gate.wait_idle()
    log.info("drained", open_bodies=gate.open_bodies)


@asynccontextmanager
async def _figures(
    place: tuple[str, int], service: Service, database: Database, gate: Gate, home: Path
) -> AsyncIterator[None]:
    """Inside, figures are given to Prometheus."""
    from lycia.deployment.coordinator.metrics import Metrics, MetricsServer  # what it needs is asked for with it

    with closing(_listen(*place, option="--metrics")) as listener:
        server = MetricsServer(Metrics(service, database, gate, home), service.health)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait({serving})


async def _enrol_operator(service: Service, home: Path) -> None:
    try:
        await service.add_operator("operator", Identity.at(home / OPERATOR_KEY).public)
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
    """Says when it is ready, drains when it is told to stop, and lets go of long polls then."""

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], drain: Callable[[], Coroutine[Any, Any, None]],
        end: Callable[[], Awaitable[None]],
    ) -> None:  # fmt: skip
        super().__init__(config)
        self._ready, self._drain, self._end = ready, drain, end
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What a SIGTERM or a Ctrl-C does. It leaves no trace in the exit status: to be told to stop is no failure."""
        if self._draining is not None:
            os._exit(1)  # nothing is lost by it
        self._draining = self._loop.create_task(self._leave())
        self._loop.call_soon_threadsafe(lambda: None)  # a loop that waits for the network does not see the task

    async def _leave(self) -> None:
        try:
            await self._drain()
        finally:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._end()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_LAST_ANSWERS_S)
        await asyncio.sleep(0.1)  # so that the last answers are on their way
        # Callers keep their connections open, and some of them do not let go of one when they are told that it ends.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)


def _listen(host: str, port: int, option: str = "--port") -> socket.socket:
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
            do="give another one with --port (0 takes any free one) or --host."
            if option == "--port"
            else f"give another one with {option}.",
        ) from None
    return listener


def _reached_as(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _certificate(home: Path, host: str) -> tuple[Path, Path]:
    certificate, key = home / CERTIFICATE, home / CERTIFICATE_KEY
    if not certificate.exists():
        pem, private = make_certificate(own_names(host))
        write_private(key, private)
        write_private(certificate, pem)
    return certificate, key


def _secret(home: Path) -> bytes:
    path = home / SESSION_SECRET
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
