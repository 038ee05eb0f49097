"""Models on their way to nodes: by ranges, gone on with from either end, checked part by part, and through a proxy."""

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from lycia.deployment.coordinator import mailbox
from lycia.deployment.identity import Identity
from lycia.deployment.link import HttpsLink, LinkFailed, Response
from lycia.deployment.node import client as client_module
from lycia.deployment.node import fetching
from lycia.deployment.node.client import Client
from lycia.deployment.wire import AskMessage
from lycia.errors import ConnectionFailed, NotFound, StorageError
from lycia.storage import parts
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import RawNode
from tests.deployment.transferring import INLINE, PART, Hurt, Killed, again, begin, hurt


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", PART)
    monkeypatch.setattr(client_module, "INLINE_BYTES", INLINE)
    monkeypatch.setattr(client_module, "_PATIENCE_S", (0.01, 0.05))
    monkeypatch.setattr(mailbox, "_INLINE", 0)  # so that models are fetched


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """One for each test."""
    with Coordinator(tmp_path / "coordinator", 60.0) as running:
        yield running


@pytest.fixture
def node(coordinator: Coordinator, tmp_path: Path) -> Iterator[RawNode]:
    """One that fetches a part at a time, and never gives up."""
    with closing(RawNode(coordinator.invite("north"), tmp_path / "north")) as one:
        one.client._give_up_s, one.client._parallel = None, 1
        yield one


@pytest.fixture(autouse=True)
def _one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    real = fetching.fetch
    monkeypatch.setattr(fetching, "fetch", lambda *said: real(*said, parallel=1))


def stored(coordinator: Coordinator, ask: AskMessage) -> Path:
    """Where the coordinator keeps the model that it sends."""
    return coordinator.home / "outgoing" / ask.model[:2] / ask.model[2:]


def starts(link: Hurt) -> list[int]:
    """With which part each range began that was asked for."""
    return [int(said.removeprefix("bytes=").partition("-")[0]) // PART for said in link.ranges]


def at_range(link: Hurt, count: int, do: Callable[[], None]) -> None:
    """Do something once, before so many ranges and one have been asked for."""
    done = []

    def before(method: str, path: str) -> None:
        is_range = method == "GET" and not path.endswith("/parts")
        if is_range and len(link.ranges) == count and not done:
            done.append(path)
            do()

    link.before = before


# --------------------------------------------------------------------------------------------------------------- ranges


def test_ranges_are_what_they_say_however_odd_they_are(coordinator: Coordinator, node: RawNode):
    _, (ask,) = begin(coordinator, node)
    content = stored(coordinator, ask).read_bytes()
    size, client = len(content), node.client

    def get(said: str | None) -> tuple[Response, bytes]:
        got = bytearray()
        headers = client._headers(True) | ({"range": said} if said is not None else {})
        response = client._link.call("GET", f"/v1/blobs/{ask.model}", headers=headers, into=got.extend)
        return response, bytes(got)

    for said, place in (
        ("bytes=0-0", slice(0, 1)),
        ("bytes=5-9", slice(5, 10)),
        ("bytes=5-", slice(5, size)),
        (f"bytes={size - 1}-{size - 1}", slice(size - 1, size)),
        (f"bytes=7-{10**17}", slice(7, size)),
    ):
        response, got = get(said)
        assert (response.status, got) == (206, content[place])
        assert response.headers["content-range"] == f"bytes {place.start}-{place.stop - 1}/{size}"
        assert response.headers["etag"] == f'"{ask.model}"'
    for said in (f"bytes={size}-", f"bytes={size}-{size + 5}", f"bytes={10**17}-", "bytes=9-5"):
        response, got = get(said)
        assert (response.status, got) == (416, b"")
        assert response.headers["content-range"] == f"bytes */{size}"
    for said in (None, "", "bytes=-5", "bytes=0-1,4-5", "bytes=a-b", "lines=1-2", f"bytes={'9' * 40}-", "bytes=0x1-2"):
        response, got = get(said)
        assert (response.status, got) == (200, content)


def test_a_download_names_its_parts_to_those_who_may_have_it_and_to_nobody_else(
    coordinator: Coordinator, node: RawNode, tmp_path: Path
):
    _, (ask,) = begin(coordinator, node)
    content = stored(coordinator, ask).read_bytes()
    said = node.client._call("GET", f"/v1/blobs/{ask.model}/parts").json()
    assert said == {"size_bytes": len(content), "parts": list(parts.digests(content))}
    assert parts.digest_of(len(content), said["parts"]) == ask.model
    with closing(RawNode(coordinator.invite("stranger"), tmp_path / "stranger")) as stranger:
        for path in (f"/v1/blobs/{ask.model}", f"/v1/blobs/{ask.model}/parts"):
            with pytest.raises(NotFound, match="there is nothing under .* for 'stranger'"):  # noqa: RUF043
                stranger.client._call("GET", path)


# ------------------------------------------------------------------------------------------------------------- going on


def test_a_download_goes_on_over_a_restart_of_the_coordinator(coordinator: Coordinator, node: RawNode, tmp_path: Path):
    run, (ask,) = begin(coordinator, node)
    content, link = stored(coordinator, ask).read_bytes(), hurt(node.client)

    def restart() -> None:
        coordinator.stop()
        coordinator.start()

    at_range(link, 2, restart)
    target = node.client.download(ask.model, tmp_path / "model", run)
    assert target.read_bytes() == content
    count = parts.count(len(content))
    assert count > 3
    assert sorted(set(starts(link))) == list(range(count))
    assert starts(link).count(0) == starts(link).count(1) == 1


def test_a_node_that_was_killed_fetches_only_the_parts_that_it_has_not_got(
    coordinator: Coordinator, node: RawNode, tmp_path: Path
):
    run, (ask,) = begin(coordinator, node)
    content, link = stored(coordinator, ask).read_bytes(), hurt(node.client)

    def die() -> None:
        raise Killed

    at_range(link, 3, die)
    with pytest.raises(Killed):
        node.client.download(ask.model, tmp_path / "model", run)
    assert (tmp_path / "model.part").exists()
    assert not (tmp_path / "model").exists()
    with closing(again(node, tmp_path / "north")) as next_one:
        after = hurt(next_one.client)
        assert next_one.client.download(ask.model, tmp_path / "model", run).read_bytes() == content
    assert starts(link) == [0, 1, 2]
    assert starts(after) == list(range(3, parts.count(len(content))))
    assert not (tmp_path / "model.part").exists()


@pytest.mark.parametrize(
    "left",
    [
        lambda content: bytes(len(content)),
        lambda content: content[: PART + 5],
        lambda content: content + b"and more",
        lambda content: content[:PART] + bytes(PART) + content[2 * PART :],
        lambda content: content,
        lambda _: b"x",
    ],
    ids=["zeros", "begun", "too long", "one part wrong", "whole", "a byte"],
)
def test_what_was_left_of_an_earlier_try_never_becomes_part_of_another_file(
    left: Callable[[bytes], bytes], coordinator: Coordinator, node: RawNode, tmp_path: Path
):
    run, (ask,) = begin(coordinator, node)
    content, link = stored(coordinator, ask).read_bytes(), hurt(node.client)
    (tmp_path / "model.part").write_bytes(left(content))
    assert node.client.download(ask.model, tmp_path / "model", run).read_bytes() == content
    assert len(link.ranges) <= parts.count(len(content))
    if len(left(content)) == len(content):
        wrong = [number for number, (one, other) in enumerate(
            zip(parts.digests(content), parts.digests(left(content)), strict=True)
        ) if one != other]  # fmt: skip
        assert starts(link) == wrong
    # And a small file, which has no list of parts to speak of
    (tmp_path / "plan.part").write_bytes(left(content))
    plan = node.client.download(ask.plan, tmp_path / "plan", run)
    assert parts.digest_of_pieces([plan.read_bytes()]) == ask.plan


@pytest.mark.parametrize("place", [5, PART + 5, -1], ids=["first part", "second part", "last part"])
def test_a_file_that_changed_at_the_coordinator_is_refused_in_words_and_not_kept(
    place: int, coordinator: Coordinator, node: RawNode, tmp_path: Path
):
    run, (ask,) = begin(coordinator, node)
    path = stored(coordinator, ask)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConnectionFailed, match="is something else") as refused:
        node.client.download(ask.model, tmp_path / "model", run)
    assert "tell the operator" in refused.value.do
    assert list(tmp_path.glob("model*")) == []
    content[place] ^= 1
    path.write_bytes(content)
    assert node.client.download(ask.model, tmp_path / "model", run).read_bytes() == content


def test_a_file_that_was_cut_short_at_the_coordinator_is_refused_in_words_and_not_kept(
    coordinator: Coordinator, node: RawNode, tmp_path: Path
):
    run, (ask,) = begin(coordinator, node)
    path = stored(coordinator, ask)
    path.write_bytes(path.read_bytes()[: 2 * PART])
    with pytest.raises(ConnectionFailed, match="is something else"):
        node.client.download(ask.model, tmp_path / "model", run)
    assert list(tmp_path.glob("model*")) == []


def test_a_full_disk_at_the_node_is_told_as_that_and_not_taken_for_a_lost_connection(
    coordinator: Coordinator, node: RawNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    run, (ask,) = begin(coordinator, node)
    with monkeypatch.context() as patched:
        patched.setattr(fetching, "pwrite_all", full)
        with pytest.raises(StorageError, match="no room left"):
            node.client.download(ask.model, tmp_path / "model", run)
    assert node.client.download(ask.model, tmp_path / "model", run).exists()


def test_whoever_is_still_fetching_after_another_part_failed_writes_into_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Given three parts on their way, of which one is wrong, and the others stand still
    content = bytes(range(256)) * (PART * 3 // 256)
    digest = parts.digest_of(len(content), parts.digests(content))
    arrived, go, done = threading.Barrier(3, timeout=20), threading.Event(), []

    def get(path: str, headers: Callable, into: Callable | None) -> Response:
        if path.endswith("/parts"):
            said = '{"size_bytes": %d, "parts": ["%s"]}' % (len(content), '", "'.join(parts.digests(content)))  # noqa: UP031
            return Response(200, {}, said.encode())
        start = int(headers()["range"].removeprefix("bytes=").partition("-")[0])
        place = slice(start, start + PART)
        if start == 0:
            return Response(
                206, {"content-range": f"bytes 0-1/{len(content)}"}, into(memoryview(content)[place]) or b""
            )
        arrived.wait()
        if start == PART:
            into(memoryview(bytes(PART)))
        else:
            go.wait(20)
            with suppress(OSError, StorageError):
                into(memoryview(content)[place])
            done.append(start)
        return Response(206, {"content-range": f"bytes 0-1/{len(content)}"})

    failed: list[ConnectionFailed] = []

    def run() -> None:
        try:
            fetching._Fetching(get, "/v1/blobs/x", digest, part).run(2)
        except ConnectionFailed as error:
            failed.append(error)

    part = tmp_path / "model.part"
    part.touch()
    thread = threading.Thread(target=run)
    thread.start()
    arrived.wait()
    thread.join()
    assert failed
    # When other files are opened after that, and the ones that stood still go on
    others = [(tmp_path / f"other-{number}").open("w+b") for number in range(8)]
    go.set()
    while not done:
        threading.Event().wait(0.01)
    # Then nothing of theirs is in those
    for file in others:
        file.close()
    assert [path.stat().st_size for path in sorted(tmp_path.glob("other-*"))] == [0] * 8


# --------------------------------------------------------------------------------------------------------- connections


class Proxy:
    """A proxy on this machine that connects callers to whom they name.

    Attributes:
      asked: the first line of each call, and what it says of who calls.
    """

    def __init__(self, login: str = "") -> None:
        self.asked, self._login = [], login
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(caller,), daemon=True).start()

    def _connect(self, caller: socket.socket) -> None:
        with caller, suppress(OSError):
            said = b""
            while b"\r\n\r\n" not in said:
                said += caller.recv(4096)
            lines = said.decode().split("\r\n")
            self.asked.append(lines[0])
            wanted = f"Basic {base64.b64encode(self._login.encode()).decode()}"
            if self._login and not any(line.endswith(wanted) for line in lines):
                caller.sendall(b"HTTP/1.1 407 Who are you\r\ncontent-length: 0\r\n\r\n")
                return
            host, _, port = lines[0].split(" ")[1].rpartition(":")
            with socket.create_connection((host, int(port))) as there:
                caller.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_pump, args=(there, caller), daemon=True)
                back.start()
                _pump(caller, there)
                back.join(20)

    def close(self) -> None:
        """Take no more calls."""
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Makes proxies."""
    with ExitStack() as stack:
        yield lambda *said: stack.enter_context(closing(Proxy(*said)))


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def meta(coordinator: Coordinator) -> int:
    """The status of a call over a link that is made now."""
    with closing(HttpsLink(coordinator.url, (coordinator.home / "certificate.pem").read_text())) as link:
        return link.call("GET", "/v1/meta", headers={}).status


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_the_systems_proxy_is_used_where_there_is_one(
    scheme: str, coordinator: Coordinator, proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
):
    via = proxy()
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}{via.url}")
    assert meta(coordinator) == 200
    assert via.asked == [f"CONNECT {coordinator.url.removeprefix('https://')} HTTP/1.0"] or (
        via.asked == [f"CONNECT {coordinator.url.removeprefix('https://')} HTTP/1.1"]
    )


def test_a_proxy_that_wants_to_know_who_calls_is_told(
    coordinator: Coordinator, proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
):
    via = proxy("some:one's pass/word")
    monkeypatch.setenv("https_proxy", f"http://{via.url}")
    with pytest.raises(LinkFailed, match="407"):
        meta(coordinator)
    monkeypatch.setenv("https_proxy", f"http://some:one%27s%20pass%2Fword@{via.url}")
    assert meta(coordinator) == 200


def test_no_proxy_is_used_where_the_system_says_so(
    coordinator: Coordinator, proxy: Callable[..., Proxy], monkeypatch: pytest.MonkeyPatch
):
    via = proxy()
    monkeypatch.setenv("https_proxy", f"http://{via.url}")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert meta(coordinator) == 200
    assert via.asked == []


def test_a_model_comes_through_a_proxy_whole(
    coordinator: Coordinator,
    node: RawNode,
    proxy: Callable[..., Proxy],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    run, (ask,) = begin(coordinator, node)
    monkeypatch.setenv("https_proxy", f"http://{proxy().url}")
    with closing(again(node, tmp_path / "north")) as behind:
        found = behind.client.download(ask.model, tmp_path / "model", run)
        assert found.read_bytes() == stored(coordinator, ask).read_bytes()


def test_after_a_restart_of_the_coordinator_one_call_is_lost_and_not_one_for_each_connection(
    coordinator: Coordinator, tmp_path: Path
):
    certificate = (coordinator.home / "certificate.pem").read_text()
    with closing(HttpsLink(coordinator.url, certificate)) as link:
        connections = [link._take() for _ in range(4)]  # as of calls that were all made at once
        for connection in connections:
            connection.request("GET", "/v1/meta")
            connection.getresponse().read()
        for connection in connections:
            link._give_back(connection, True)
        coordinator.stop()
        coordinator.start()
        with pytest.raises(LinkFailed):
            link.call("GET", "/v1/meta", headers={})
        assert link.call("GET", "/v1/meta", headers={}).status == 200


def test_a_link_that_was_hung_up_is_not_called_over_again(coordinator: Coordinator, tmp_path: Path):
    certificate = (coordinator.home / "certificate.pem").read_text()
    client = Client(coordinator.url, certificate, "nobody", Identity.at(tmp_path / "key"), give_up_s=None)
    client.close()
    coordinator.stop()
    with pytest.raises(ConnectionFailed, match="no coordinator answers"):
        client.alive("a-run", 1)
