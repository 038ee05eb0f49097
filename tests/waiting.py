"""Waiting for what happens when there is time for it."""

import time
from collections.abc import Callable


def wait_until(holds: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Whether something holds before too long."""
    until_s = time.monotonic() + within_s
    while not holds() and time.monotonic() < until_s:
        time.sleep(0.01)
    return holds()
