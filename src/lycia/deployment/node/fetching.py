"""Fetching a large file by its parts: each checked alone, several at once, and only those that are not here yet."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from hashlib import sha256
from pathlib import Path
from typing import Protocol, TypeVar

from lycia.deployment.link import Into, Response
from lycia.errors import ConnectionFailed
from lycia.storage import parts
from lycia.storage.blobs import mapped
from lycia.storage.disk import AS_BYTES, check_free, in_words, pwrite_all

_Job = TypeVar("_Job")
_Done = TypeVar("_Done")
_PARALLEL = 3


class Fetch(Protocol):
    """Gets what is behind a path, over lost connections; the body of a good answer goes piece by piece to `into`."""

    def __call__(self, path: str, headers: Callable[[], Mapping[str, str]], into: Into | None) -> Response: ...


def fetch(get: Fetch, path: str, digest: str, target: Path, parallel: int = _PARALLEL) -> None:
    """Put the file that `digest` names into `target`. What was fetched before a restart is not fetched again.

    Raises: ConnectionFailed, if what came is something else; what `get` raises.
    """
    part = target.with_name(f"{target.name}.part")
    with in_words(part):
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | AS_BYTES, 0o600)
        try:
            _Fetching(get, path, digest, part, descriptor).run(parallel)
        finally:
            os.close(descriptor)
        part.replace(target)


class _Fetching:
    def __init__(self, get: Fetch, path: str, digest: str, part: Path, descriptor: int) -> None:
        self._get, self._path, self._digest, self._part, self._file = get, path, digest, part, descriptor

    def run(self, parallel: int) -> None:
        found, size_bytes = self._first()
        if parts.count(size_bytes) == 1:
            os.ftruncate(self._file, size_bytes)
            return self._check(found, self._digest)
        place, _, query = self._path.partition("?")
        said = self._get(f"{place}/parts{query and '?' + query}", dict, None).json()
        digests = tuple(str(digest) for digest in said["parts"])
        self._check(parts.digest_of(size_bytes, digests), self._digest)
        self._check(found, digests[0])
        missing = self._missing(size_bytes, digests)
        check_free(self._part.parent, min(len(missing) * parts.PART_BYTES, size_bytes), "a model")
        os.ftruncate(self._file, size_bytes)

        def one(number: int) -> None:
            place = parts.place(size_bytes, number)
            self._check(self._range(place.start, place.stop)[0], digests[number])

        for _ in in_parallel(one, missing, parallel):
            pass
        return None

    def _first(self) -> tuple[str, int]:
        """The digest of the first part, fetched; and how large the whole file is."""
        return self._range(0, parts.PART_BYTES)

    def _range(self, start: int, stop: int) -> tuple[str, int]:
        """Fetch a range into its place; returns its digest, and how large the whole file is."""
        hasher, at = sha256(), start

        def headers() -> Mapping[str, str]:
            return {"range": f"bytes={at}-{stop - 1}"}  # a call that is made again goes on where the last one broke off

        def take(piece: memoryview) -> None:
            nonlocal at
            if at + piece.nbytes > stop:
                raise _something_else(self._digest, "more than was asked for")
            pwrite_all(self._file, piece, at)
            hasher.update(piece)
            at += piece.nbytes

        response = self._get(self._path, headers, take)
        return hasher.hexdigest(), at - start if response.status == 200 else _whole_size(response)

    def _missing(self, size_bytes: int, digests: Sequence[str]) -> list[int]:
        """The parts that are not here yet; the first one is."""
        content = mapped(self._part)
        if content is None or content.nbytes != size_bytes:  # of an earlier try, or of a file that was only begun
            return list(range(1, len(digests)))
        have = parts.digests(content)
        return [number for number in range(1, len(digests)) if have[number] != digests[number]]

    def _check(self, found: str, wanted: str) -> None:
        if found != wanted:
            self._part.unlink(missing_ok=True)
            raise _something_else(self._digest, f"{found[:12]}…")


def in_parallel(
    work: Callable[[_Job], _Done], jobs: Sequence[_Job], threads: int, stop: Callable[[_Done], bool] | None = None
) -> Iterator[_Done]:
    """What `work` returns for each job, as it is done; after what `stop` is true of, no more jobs are begun.

    The threads are daemons: whoever leaves early, as at the end of the process, waits for none of them.

    Raises: the first error of a job.
    """
    if threads == 1 or len(jobs) < 2:
        for job in jobs:
            done = work(job)
            yield done
            if stop is not None and stop(done):
                return
        return
    todo: queue.SimpleQueue[tuple[_Job, Future[_Done]]] = queue.SimpleQueue()
    outcomes: list[Future[_Done]] = []
    for job in jobs:
        outcomes.append(Future())
        todo.put((job, outcomes[-1]))
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            try:
                job, outcome = todo.get_nowait()
            except queue.Empty:
                return
            try:
                outcome.set_result(work(job))
            except BaseException as error:  # noqa: BLE001  # it is raised where the outcome is awaited
                outcome.set_exception(error)
                return

    try:
        for _ in range(min(threads, len(jobs))):
            threading.Thread(target=go_on, daemon=True).start()
        for outcome in as_completed(outcomes):
            done = outcome.result()
            yield done
            if stop is not None and stop(done):
                return
    finally:
        over.set()


def _whole_size(response: Response) -> int:
    said = response.headers.get("content-range", "")
    _, _, total = said.rpartition("/")
    if not total.isdecimal():
        raise ConnectionFailed(
            "the coordinator did not say how large a file is.",
            why="it was asked for a part of it, and something between here and there may have dropped the header.",
            do="check any proxy in between: it must pass `Range` and `Content-Range`.",
        )
    return int(total)


def _something_else(digest: str, found: str) -> ConnectionFailed:
    return ConnectionFailed(
        f"what the coordinator sent as {digest[:12]}… is something else, {found}.",
        why="what is fetched is named by the digest of its bytes.",
        do="tell the operator: a file of the coordinator has changed.",
    )
