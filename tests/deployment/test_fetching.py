"""Fetching a file by parts: what is given up leaves nothing behind that could still write."""

import os
import threading
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import pytest

from lycia.deployment.link import Into, Response
from lycia.deployment.node import fetching
from lycia.errors import NotFound
from lycia.storage import parts

PART_BYTES = 16
CONTENT = bytes(range(3 * PART_BYTES))


@pytest.fixture(autouse=True)
def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts."""
    monkeypatch.setattr(parts, "PART_BYTES", PART_BYTES)


class Gone:
    """A coordinator that has the file no more when its last part is asked for, while the one before it is delayed."""

    def __init__(self) -> None:
        self.goes_on, self.late = threading.Event(), threading.Event()

    def __call__(self, path: str, headers: Callable[[], Mapping[str, str]], into: Into | None) -> Response:
        if into is None:
            said = [sha256(CONTENT[start : start + PART_BYTES]).hexdigest() for start in range(0, 48, PART_BYTES)]
            return Response(200, {}, str({"size_bytes": len(CONTENT), "parts": said}).replace("'", '"').encode())
        start, _, last = headers()["range"].removeprefix("bytes=").partition("-")
        if int(start) == 2 * PART_BYTES:
            raise NotFound("gone", why="gone", do="nothing")
        if int(start) == PART_BYTES:
            self.goes_on.wait(60)
        try:
            into(memoryview(CONTENT)[int(start) : int(last) + 1])
        finally:
            if int(start) == PART_BYTES:
                self.late.set()
        return Response(206, {"content-range": f"bytes {start}-{last}/{len(CONTENT)}"})


def test_a_part_that_comes_after_its_file_was_given_up_is_written_nowhere(tmp_path: Path):
    # Given a file of which one part cannot be fetched, while another one is still on its way
    get, digest = Gone(), parts.digest_of_pieces([CONTENT])
    with pytest.raises(NotFound):
        fetching.fetch(get, "/v1/blobs/x", digest, tmp_path / "model")
    # When the file was given up, and the next one that is opened has its number
    other = os.open(tmp_path / "secret", os.O_RDWR | os.O_CREAT)
    try:
        os.write(other, b"untouched")
        get.goes_on.set()
        assert get.late.wait(60)
        # Then what comes is not written into it
        assert (tmp_path / "secret").read_bytes() == b"untouched"
    finally:
        os.close(other)
