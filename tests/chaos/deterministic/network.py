"""The network between nodes and coordinator: it delays, loses, cuts, repeats and partitions, by its world's chance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from tests.chaos.deterministic.world import Pause, Process, World, current_process

_LONG_S = 45.0  # in which somebody may wait for something that was lost
_ONCE = ("/v1/session",)  # a signed challenge is good for one use, and TLS lets nobody repeat what somebody else said


@dataclass(frozen=True)
class Weather:
    """How often what goes wrong, for each call.

    Attributes:
      lost: the call never arrives; unanswered: it arrives, and its answer is lost; cut: its body breaks off on the way;
        answer_cut: the body of its answer does; repeated: it arrives twice; slow: it takes seconds.
      silence: how likely it is that who loses something waits for long before it learns of it.
    """

    lost: float = 0.0
    unanswered: float = 0.0
    cut: float = 0.0
    answer_cut: float = 0.0
    repeated: float = 0.0
    slow: float = 0.0
    silence: float = 0.0


CALM = Weather()


@dataclass(frozen=True)
class Answered:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Lost:
    """Nothing came back, or only the beginning of it."""

    why: str
    status: int = 599
    body: bytes = b""


@dataclass
class Call:
    """One call on its way."""

    caller: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    process: Process
    pause: Pause
    is_cut: bool = False
    gone: bool = False
    hangs_up: list[Callable[[], None]] = field(default_factory=list)

    def hang_up(self) -> None:
        """The caller is not there any more."""
        self.gone = True
        for happens in self.hangs_up:
            happens()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Server(Protocol):
    """Whoever listens."""

    process: Process

    def accept(self, call: Call, pieces: list[tuple[float, bytes]], answer: Callable[[Answered], None]) -> None:
        """Begin to serve a call whose body comes in pieces, each after so many seconds."""


class Network:
    """All connections of a world."""

    def __init__(self, world: World) -> None:
        self.world, self.weather = world, CALM
        self.server: Server | None = None
        self._partitioned: dict[str, float] = {}
        self._open: list[Call] = []
        self.polled: dict[str, float] = {}

    # -------------------------------------------------------------------------------------------------- what nodes call

    def call(
        self, caller: str, method: str, path: str, headers: Mapping[str, str], body: bytes, silence_s: float
    ) -> Answered | Lost:  # fmt: skip
        """Call the coordinator, and wait for what comes back."""
        world, chance, weather = self.world, self.world.random, self.weather
        process = current_process()
        assert process is not None
        world.moment(f"before {method} {path}")
        call = Call(caller, method, path, headers, body, process, Pause(world))
        self._open.append(call)
        if path == "/v1/poll":
            self.polled[caller] = world.now_s
        delay_s = self._delay_s()
        roll = chance.random()
        lost, cut = roll < weather.lost, weather.lost <= roll < weather.lost + weather.cut
        unanswered, answer_cut = chance.random() < weather.unanswered, chance.random() < weather.answer_cut
        if self._is_partitioned(caller) or lost:
            self._loses(call, f"{call} is lost")
        else:
            call.is_cut = cut
            world.after(delay_s, None, lambda: self._arrive(call, unanswered, answer_cut))
            if chance.random() < weather.repeated and path not in _ONCE:
                again_s = delay_s + chance.choice((0.0, chance.expovariate(20), chance.expovariate(0.3)))
                world.after(again_s, None, lambda: self._arrive_again(call))
        world.after(silence_s, process, lambda: self._end(call, Lost("timeout")))
        outcome: Answered | Lost = call.pause.wait()
        self._open.remove(call)
        world.moment(f"after {method} {path}")
        return outcome

    # ----------------------------------------------------------------------------------------------------- what happens

    def begin_to_listen(self, server: Server) -> None:
        """A coordinator listens from now on, until it dies."""
        self.server = server
        server.process.on_death.append(self._server_is_gone)

    def partition(self, caller: str, for_s: float) -> None:
        """Cut one node off: what is open breaks, and nothing gets through for a while."""
        self.world.say("network", f"{caller} is cut off for {for_s:.1f} s")
        self._partitioned[caller] = self.world.now_s + for_s
        for call in [call for call in self._open if call.caller == caller]:
            self._break(call, "the link broke")

    def node_is_gone(self, process: Process) -> None:
        """A node's process died: its connections end."""
        for call in [call for call in self._open if call.process is process]:
            self._open.remove(call)
            self.world.after(self._delay_s(), None, call.hang_up)

    # -------------------------------------------------------------------------------------------------------- how it is

    def _arrive(self, call: Call, unanswered: bool, answer_cut: bool) -> None:
        server = self.server
        if self._is_partitioned(call.caller):
            self._loses(call, f"{call} is lost")
            return
        if server is None:
            self._end(call, Lost("refused"))
            return
        pieces = self._pieces(call.body)
        if call.is_cut and len(call.body) > 1:
            kept = self.world.random.randrange(len(pieces)) if len(pieces) > 1 else 0
            pieces = [*pieces[:kept], (0.001, pieces[kept][1][: len(pieces[kept][1]) // 2])]
            broken_s = sum(delay_s for delay_s, _ in pieces) + 0.001
            self.world.say("network", f"{call.caller}: {call} breaks off on its way")
            self.world.after(broken_s, None, lambda: self._break(call, "the body broke off"))

        def answer(answered: Answered) -> None:
            if unanswered or self._is_partitioned(call.caller):
                self._loses(call, f"the answer to {call} is lost")
            elif answer_cut:
                self.world.say("network", f"{call.caller}: the answer to {call} breaks off")
                half = answered.body[: self.world.random.randrange(len(answered.body) + 1)]
                self.world.after(
                    self._delay_s(), None, lambda: self._end(call, Lost("answer broke off", answered.status, half))
                )
            else:
                self.world.after(self._delay_s(), None, lambda: self._end(call, answered))

        server.accept(call, pieces, answer)

    def _arrive_again(self, call: Call) -> None:
        if self.server is not None and not self._is_partitioned(call.caller):
            self.world.say("network", f"{call.caller}: {call} arrives again")
            self.server.accept(call, self._pieces(call.body), lambda _: None)

    def _loses(self, call: Call, what: str) -> None:
        chance = self.world.random
        self.world.say("network", f"{call.caller}: {what}")
        waits_s = chance.uniform(5, _LONG_S) if chance.random() < self.weather.silence else chance.expovariate(5)
        self.world.after(waits_s, None, lambda: self._break(call, "lost"))

    def _break(self, call: Call, why: str) -> None:
        self._end(call, Lost(why))
        call.hang_up()

    def _end(self, call: Call, outcome: Answered | Lost) -> None:
        if not call.process.is_dead:
            call.pause.end(outcome)

    def _server_is_gone(self) -> None:
        self.server = None
        for call in list(self._open):
            self.world.after(self._delay_s(), None, lambda call=call: self._end(call, Lost("connection reset")))

    def _is_partitioned(self, caller: str) -> bool:
        return self._partitioned.get(caller, 0.0) > self.world.now_s

    def _delay_s(self) -> float:
        chance = self.world.random
        return chance.uniform(0.5, 8.0) if chance.random() < self.weather.slow else chance.uniform(0.0005, 0.03)

    def _pieces(self, body: bytes) -> list[tuple[float, bytes]]:
        chance = self.world.random
        if len(body) < 2 or chance.random() < 0.5:
            return [(0.0, body)]
        cuts = sorted(chance.randrange(1, len(body)) for _ in range(chance.randrange(1, 4)))
        edges = [0, *cuts, len(body)]
        return [(chance.expovariate(200), body[start:end]) for start, end in pairwise(edges) if end > start]
