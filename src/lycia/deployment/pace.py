"""How fast bytes may move: a cap on a sender's or a receiver's share of a link."""

import threading
from collections.abc import Callable

_AHEAD_S = 0.25  # how much may move at once before anybody waits, so that small messages never do


class Pace:
    """At most so many bytes a second, whoever moves them; it is kept by waiting as long as `wait_s` says."""

    def __init__(self, bytes_s: float | None, now_s: Callable[[], float]) -> None:
        """`bytes_s`: None for no cap."""
        self._bytes_s, self._now_s = bytes_s, now_s
        self._due_s = now_s()
        self._turn = threading.Lock()

    def wait_s(self, moved: int) -> float:
        """How long to wait now that `moved` bytes more have moved, or are about to."""
        if self._bytes_s is None:
            return 0.0
        with self._turn:
            now_s = self._now_s()
            self._due_s = max(self._due_s, now_s) + moved / self._bytes_s
            return max(self._due_s - now_s - _AHEAD_S, 0.0)
