"""A world without threads: its time, its processes and everything that happens in it follow from a seed.

What happens next is taken from one queue. A process is a set of greenlets: the agent and its trainer are ordinary code
that is set aside wherever it would wait, and the coordinator's event loop is one more source of things to do. Whoever
is killed is set aside for good, in the middle of whatever it did, and not one line of it runs any more.
"""

import asyncio
import heapq
import os
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

EPOCH_S = 1_800_000_000.0  # what every clock showed when the world began, but for its skew
_MOST_DEATHS = 3  # of a thread that does something else when it is told to end
_DEADLY = 0.15  # how likely a process dies at a moment that is deadly in this world
_LONGEST_TRACE = 4000  # lines that are kept; a seed that says more says the same again and again


class Broken(AssertionError):
    """The simulated system did what it must never do."""


class Stuck(AssertionError):
    """Nothing is left to happen, or too much has."""


class Process:
    """Something that can be killed: from then on nothing of it happens any more.

    Attributes:
      fuse: how many moments are left until it is killed; None: it lives.
      on_death: what the world does when it dies, such as cutting its connections.
    """

    def __init__(self, world: "World", name: str, fuse: int | None = None) -> None:
        self.world, self.name, self.fuse, self.is_dead = world, name, fuse, False
        self.on_death: list[Callable[[], None]] = []
        self.began_s, self.skew_s = world.now_s, 0.0
        self.threads: list[Thread] = []
        self.loops: list[Loop] = []
        world.processes.append(self)

    def start(self, body: Callable[[], None]) -> "Thread":
        """Run `body` as one of this process's threads, from the next moment on."""
        thread = Thread(self, body)
        self.world.soon(self, thread.switch)
        return thread

    def kill(self, why: str) -> None:
        """End it here and now."""
        if self.is_dead:
            return
        self.is_dead = True
        self.world.say(self.name, f"is killed {why}")
        for happens in self.on_death:
            self.world.soon(None, happens)  # not here: it may be the dying process's own code that says so

    def monotonic(self) -> float:
        """As `time.monotonic` in this process."""
        return self.world.now_s + 1000.0

    def wall(self) -> float:
        """As `time.time` in this process: its machine's clock may be wrong, and may be set."""
        return EPOCH_S + self.world.now_s + self.skew_s


class Thread(greenlet):
    """Ordinary code that is set aside wherever it would wait."""

    def __init__(self, process: Process, body: Callable[[], None]) -> None:
        super().__init__(body, process.world.hub)
        self.process = process
        process.threads.append(self)


class Pause:
    """One wait of the current thread, ended by whoever comes first."""

    def __init__(self, world: "World") -> None:
        self._world, self._thread = world, getcurrent()
        self._value: Any = None
        self.is_over = False

    def end(self, value: Any = None) -> None:
        """Let the thread go on, with this value."""
        if not self.is_over:
            self.is_over, self._value = True, value
            self._world.soon(self._thread.process, self._thread.switch)

    def wait(self) -> Any:
        """Set the thread aside until the wait is ended; returns the value."""
        self._world.hub.switch()
        if self._world.is_over:
            raise GreenletExit
        return self._value


class World:
    """Everything that happens, in order.

    Attributes:
      now_s: seconds since the world began.
      random: the one source of chance.
      trace: what happened, a line each.
      deadly: beginnings of the names of moments at which processes like to die; deaths_left: how often they still may.
    """

    def __init__(self, seed: str) -> None:
        self.random, self.now_s, self.hub, self.is_over = random.Random(seed), 0.0, getcurrent(), False
        self.trace: list[str] = []
        self.processes: list[Process] = []
        self.moments = 0
        self.deadly: tuple[str, ...] = ()
        self.deaths_left = 0
        self._ready: deque[tuple[Process | None, Callable[[], Any]]] = deque()
        self._later: list[tuple[float, int, Process | None, Callable[[], Any]]] = []
        self._order = 0
        self._broken: Exception | None = None

    def say(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        if len(self.trace) < _LONGEST_TRACE:
            self.trace.append(f"{self.now_s:10.4f}  {who:<14} {what}")

    def breaks(self, what: str) -> None:
        """The system did what it must never do: the world ends when this moment is over."""
        self.say("PROMISE", what)
        self._broken = self._broken or Broken(what)

    # ----------------------------------------------------------------------------------------------- what happens when

    def soon(self, process: Process | None, happens: Callable[[], Any]) -> None:
        """Let it happen next, after all that is ready; not if the process is dead by then."""
        self._ready.append((process, happens))

    def after(self, delay_s: float, process: Process | None, happens: Callable[[], Any]) -> None:
        """Let it happen so many seconds from now."""
        self.at(self.now_s + delay_s, process, happens)

    def at(self, at_s: float, process: Process | None, happens: Callable[[], Any]) -> None:
        """Let it happen then."""
        self._order += 1
        heapq.heappush(self._later, (at_s, self._order, process, happens))

    def run(self, until: Callable[[], bool], most_s: float, most_moments: int = 400_000) -> None:
        """Let things happen until `until`.

        Raises: Broken; Stuck, if that is not reached before `most_s` seconds of this world.
        """
        while not until():
            if self._ready:
                process, happens = self._ready.popleft()
            elif self._later:
                at_s, _, process, happens = heapq.heappop(self._later)
                if process is not None and process.is_dead:
                    continue
                self.now_s = max(self.now_s, at_s)
            else:
                raise Stuck("nothing is left to happen, and the run has not ended")
            if process is None or not process.is_dead:
                happens()
            if self._broken is not None:
                raise self._broken
            self.moments += 1
            if self.now_s > most_s or self.moments > most_moments:
                raise Stuck(f"it has not ended after {self.now_s:.0f} s and {self.moments} moments")

    # ----------------------------------------------------------------------------------------- what code in it calls

    def sleep(self, seconds: float) -> None:
        """Set the current thread aside for so long."""
        pause = Pause(self)
        self.after(max(seconds, 0.0), pause._thread.process, pause.end)
        pause.wait()

    def moment(self, what: str) -> None:
        """A moment at which the current process may be killed; `what` it was about to do, or had just done."""
        process = current_process()
        if process is None or self.is_over:
            return
        if self.deadly and self.deaths_left and what.startswith(self.deadly) and self.random.random() < _DEADLY:
            self.deaths_left -= 1
            self.die(what)
        if process.fuse is None:
            return
        process.fuse -= 1
        if process.fuse < 0:
            self.die(what)

    def die(self, what: str) -> None:
        """Kill the current process here, and never come back."""
        process = current_process()
        assert process is not None
        process.kill(what)
        self.hub.switch()
        raise GreenletExit  # the world is over, and is being tidied up

    def bury(self) -> None:
        """Let go of all processes, so that nothing is left of them; what they do meanwhile changes nothing."""
        self.is_over = True
        for process in self.processes:
            process.is_dead = True
            for thread in process.threads:
                for _ in range(_MOST_DEATHS):
                    if thread:
                        with suppress(BaseException):  # it is dead; what it says now is nothing
                            thread.throw(GreenletExit)
            for loop in process.loops:
                loop.bury()
        self.processes.clear()
        self._ready.clear()
        self._later.clear()


def current_process() -> Process | None:
    """The simulated process whose code runs now; None for the test's own."""
    return getattr(getcurrent(), "process", None)


class Loop(asyncio.AbstractEventLoop):
    """An event loop whose time is the world's, and whose threads are moments of it.

    What runs in an executor begins a little later, happens in one moment, and is told of a little later still.
    """

    def __init__(self, process: Process) -> None:
        self.process, self.world = process, process.world
        self._worker: Thread | None = None
        process.loops.append(self)

    def time(self) -> float:
        return self.process.monotonic()

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self.world.soon(self.process, lambda: self._run(handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.world.after(when - self.time(), self.process, lambda: self._run(handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is passed over when its time comes."""

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None) -> "asyncio.Task[Any]":
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:
        outcome, chance = self.create_future(), self.world.random

        def happen() -> None:
            self.world.moment("before a thread's work")
            try:
                value, error = func(*args), None
            except Exception as raised:  # noqa: BLE001  # the edge of a thread
                value, error = None, raised
            self.call_later(chance.expovariate(2000), tell, value, error)

        def tell(value: Any, error: Exception | None) -> None:
            if not outcome.done():
                outcome.set_exception(error) if error else outcome.set_result(value)

        self.call_later(chance.expovariate(2000), happen)
        return outcome

    def get_task_factory(self) -> None:
        return None

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.world.is_over and not self.process.is_dead:
            self.world.breaks(f"{self.process.name}: {context.get('message')}: {context.get('exception')!r}")

    def _run(self, handle: asyncio.Handle) -> None:
        """Run it in the loop's own thread, which may be killed in the middle."""
        if handle.cancelled():
            return
        if self._worker is None:
            self._worker = Thread(self.process, self._work)
            self._worker.switch()
        asyncio._set_running_loop(self)
        try:
            self._worker.switch(handle)
        finally:
            asyncio._set_running_loop(None)

    def _work(self) -> None:
        while True:
            handle = self.world.hub.switch()
            if self.world.is_over:
                return
            handle._run()

    def bury(self) -> None:
        """Let go of the tasks."""
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False
            coroutine = task.get_coro()
            if not coroutine.cr_running:  # to close one that was stopped in the middle of a step breaks Python
                with suppress(BaseException):
                    coroutine.close()


class SimulatedTime:
    """Stands where a module has `time`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        """This process's."""
        return _here().monotonic()

    perf_counter = monotonic

    def time(self) -> float:
        """This process's."""
        return _here().wall()

    def sleep(self, seconds: float) -> None:
        """Set this thread aside."""
        self._world.moment("before it sleeps")
        self._world.sleep(seconds)


class SimulatedThreading:
    """Stands where a module of the node has `threading`."""

    def __init__(self, world: World) -> None:
        self._world = world

    def Thread(self, target: Callable[..., None], args: tuple[Any, ...] = (), **_: Any) -> "_Starting":  # noqa: N802
        """A thread of this process."""
        return _Starting(lambda: target(*args))

    def Event(self) -> "_Event":  # noqa: N802
        """An event."""
        return _Event(self._world)

    def Lock(self) -> "_Lock":  # noqa: N802
        """A lock."""
        return _Lock(self._world)

    RLock = Lock


class _Starting:
    def __init__(self, body: Callable[[], None]) -> None:
        self._body = body

    def start(self) -> None:
        _here().start(self._body)

    def join(self, timeout: float | None = None) -> None:
        """Nobody waits for a thread here."""


class _Event:
    def __init__(self, world: World) -> None:
        self._world, self._is_set = world, False
        self._waiting: list[Pause] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for pause in self._waiting:
            pause.end(True)
        self._waiting.clear()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._is_set or self._world.is_over:
            return True
        pause = Pause(self._world)
        self._waiting.append(pause)
        if timeout is not None:
            self._world.after(timeout, _here(), lambda: pause.end(False))
        return bool(pause.wait())


class _Lock:
    def __init__(self, world: World) -> None:
        self._world, self._holder = world, None
        self._waiting: deque[Pause] = deque()

    def acquire(self) -> bool:
        while self._holder is not None and self._holder is not getcurrent() and not self._world.is_over:
            pause = Pause(self._world)
            self._waiting.append(pause)
            pause.wait()
        self._holder = getcurrent()
        return True

    def release(self) -> None:
        self._holder = None
        if self._waiting:
            self._waiting.popleft().end()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _here() -> Process:
    process = current_process()
    if process is None:  # the test's own code, before its world begins or after it
        return _OUTSIDE
    return process


class _Outside(Process):
    def __init__(self) -> None:
        self.name, self.is_dead = f"test {os.getpid()}", False

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return EPOCH_S


_OUTSIDE = _Outside()
