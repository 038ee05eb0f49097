"""How a node leaves when it is told to: with what it has in hand delivered, if that does not take too long."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Protocol


class Leaving(Protocol):
    """Whoever works until told to stop. `busy`: it has something in hand."""

    busy: bool

    def stop(self) -> None:
        """End after what is in hand."""
        ...


class Killable(Protocol):
    """What may be in the middle of a long piece of work."""

    def kill(self) -> None:
        """End it at once."""
        ...


def stop_on_signals(agent: Leaving, trainer: Killable, note: Callable[[str], None], grace_s: float) -> None:
    """Have the first SIGTERM or Ctrl-C end `agent` after what is in hand, and the second one, or `grace_s`, now.

    What is in hand then is not lost: it is asked again when the node is back, and its journal knows how far it came.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    told = False

    def stop(*_: object) -> None:
        nonlocal told
        if told or not agent.busy:
            if agent.busy:
                trainer.kill()
                note("ends now; what was in hand is asked again when this node is back")
            raise SystemExit(0)
        told = True
        agent.stop()
        note(f"finishes what is in hand, for at most {grace_s:g} s, and ends then (once more ends it now)")
        timer = threading.Timer(grace_s, os.kill, (os.getpid(), signal.SIGTERM))  # it also ends a wait for the network
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
