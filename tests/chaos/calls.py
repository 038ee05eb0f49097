"""Calls that reach the coordinator twice, or after later ones, as over a network that loses answers.

Nobody can repeat a call on the way, under TLS; so the node does it: whatever it has sent, it may send again.
"""

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lycia.errors import LyciaError
from tests.chaos.points import wrap
from tests.chaos.telling import me

_REPEATABLE = ("/v1/alive", "/v1/runs/")


def install(seed: int, twice: float, overtaken: float) -> None:
    """From here on, calls of this node are made twice with one chance, and again after a later one with another."""
    chance = random.Random(seed)
    late: list[Callable[[], Any]] = []

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(client: Any, method: str, path: str, body: Any = None, **more: Any) -> Any:
            if method == "GET" or not path.startswith(_REPEATABLE):
                return real(client, method, path, body, **more)
            sent = body.read_bytes() if isinstance(body, Path) else body  # the file is gone when it is sent again
            answer = real(client, method, path, body, **more)

            def again() -> None:
                _send_again(lambda: real(client, method, path, sent, **more), path)

            if chance.random() < twice:
                again()
            due, late[:] = list(late), []
            if chance.random() < overtaken:
                late.append(again)
            for other in due:
                other()
            return answer

        return call

    wrap("lycia.deployment.node.client:Client._call", around)


def _send_again(call: Callable[[], Any], path: str) -> None:
    try:
        call()
    except LyciaError as error:  # its run may be over, or stand still: whoever repeats a call learns nothing from it
        me.tell("repeated", path=path, refused=error.what)
    else:
        me.tell("repeated", path=path, refused="")
