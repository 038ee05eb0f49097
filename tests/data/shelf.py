"""A small web server on the loopback, with files that come whole, cut off, or not at all."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Shelf:
    """What a server offers, and what it was asked for.

    Attributes:
      files: path → content.
      status: path → what it answers instead.
      cut: path → after how many bytes of the file each answer breaks off, one after the other; then it is whole.
      ranges: whether it can go on in the middle of a file.
    """

    files: dict[str, bytes]
    status: dict[str, int] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    ranges: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, range)
    url: str = ""


@contextmanager
def served(shelf: Shelf) -> Iterator[Shelf]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("range", "")
            shelf.asked.append((self.path, wanted))
            content = shelf.files.get(self.path)
            status = shelf.status.get(self.path, 404 if content is None else 200)
            begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and shelf.ranges else 0
            rest = (content or b"")[begin:] if status == 200 else b""
            cuts = shelf.cut.get(self.path, [])
            until = max(cuts.pop(0) - begin, 0) if cuts else len(rest)
            self.send_response(206 if begin else status)
            self.send_header("content-length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[:until])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        shelf.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield shelf
        finally:
            server.shutdown()
            thread.join()
