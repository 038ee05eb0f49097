"""Calls that reach the coordinator twice, or after later ones, as over a network that loses answers.

Nobody can repeat a call on the way, under TLS; so the node does it: whatever it has sent, it may send again.
"""

import functools
import random
from collections.abc import Callable
from typing import Any

from lycia.deployment.link import LinkFailed
from tests.chaos.points import wrap
from tests.chaos.telling import me

_REPEATABLE = ("/v1/alive", "/v1/runs/")


def install(seed: int, twice: float, overtaken: float) -> None:
    """From here on, calls of this node are made twice with one chance, and again after a later one with another."""
    chance = random.Random(seed)
    late: list[Callable[[], None]] = []

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(link: Any, method: str, path: str, *, body: Any = b"", **more: Any) -> Any:
            if method == "GET" or not path.startswith(_REPEATABLE) or not isinstance(body, (bytes, memoryview)):
                return real(link, method, path, body=body, **more)
            sent = bytes(body)  # what it is a view of may be gone when it is sent again
            answer = real(link, method, path, body=body, **more)

            def again() -> None:
                try:
                    me.tell("repeated", path=path, status=real(link, method, path, body=sent, **more).status)
                except LinkFailed:  # whoever repeats a call learns nothing from it
                    me.tell("repeated", path=path, status=0)

            if chance.random() < twice:
                again()
            due, late[:] = list(late), []
            if chance.random() < overtaken:
                late.append(again)
            for other in due:
                other()
            return answer

        return call

    wrap("lycia.deployment.link:HttpsLink.call", around)
