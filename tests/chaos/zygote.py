"""A process that has imported everything, and is forked for each process of the suite: a start takes no time.

It reads orders, a line of JSON each, and what its children say goes to its standard output, with the news of their
ends. When its input ends it kills those that are left.
"""

import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

import uvloop  # noqa: F401  # taken by the coordinator when it starts

from tests.chaos import apps, points, programs  # the last one for its children
from tests.chaos.programs import Order
from tests.chaos.telling import me

_PR_SET_PDEATHSIG = 1
_children: set[int] = set()


def main() -> None:
    """Until the input ends."""
    me.descriptor, me.name = os.dup(1), "zygote"
    os.dup2(2, 1)
    apps.cut_small()
    for point in points.POINTS:
        points.find(point.place)  # better now than in each process that it is wrapped in
    signal.signal(signal.SIGCHLD, _bury)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the harness, which ends this process
    gc.collect()
    gc.freeze()
    me.tell("waits")
    for line in _lines():
        _start(Order.from_data(json.loads(line)))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in _children:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


def _lines() -> Iterator[str]:
    rest = b""
    while piece := os.read(0, 1 << 16):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line.decode() for line in whole)


def _start(order: Order) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if not child:
        _be(order)
    _children.add(child)
    me.tell("started", child=child, order=order.name)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


def _be(order: Order) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    if sys.platform == "linux":  # nothing outlives the zygote, however that ends
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.close(nothing)
    sys.stdin, sys.stdout = os.fdopen(0, "r", closefd=False), os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    programs.begin(order)


def _bury(*_: object) -> None:
    while True:
        try:
            child, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not child:
            return
        _children.discard(child)
        me.tell("ended", child=child, status=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
