"""One run of a script: a federation of real processes, what befalls it, and the verdict."""

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lycia.core.plan import App
from tests.chaos import disks, judging
from tests.chaos.apps import NODES, made, write_app
from tests.chaos.disks import Disk, Flag, small_disk
from tests.chaos.federation import PATIENCE_S, Event, Federation, Operator, Zygote
from tests.chaos.script import Fault, Script

ROUNDS = 5
PAUSE_S = 0.03
SILENCE_S = {"strict": 60.0, "default": 1.5, "lossy": 1.5}  # in the strict runs, longer than anybody is away


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
      digests: of each round's model.
      happened: what was done to it, with how often.
    """

    wall_s: float = 0.0
    digests: list[str] = field(default_factory=list)
    happened: Counter[str] = field(default_factory=Counter)
    pauses: list[str] = field(default_factory=list)
    missed: int = 0
    trainings: Counter[tuple[str, int]] = field(default_factory=Counter)


class Play:
    """Does to a federation what a script says, and starts again whatever has died."""

    def __init__(self, federation: Federation, disk: Disk, faults: Iterable[Fault] = (), down_s: float = 0.1) -> None:
        """`down_s`: for how long a process stays away that has killed itself."""
        self._federation, self._disk, self._usually_down_s = federation, disk, down_s
        self._faults = iter(faults)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._heard, self._begun = 0, False
        self._down_s: dict[str, float] = {}
        self.happened: Counter[str] = Counter()

    def mend(self) -> None:
        """What an operator does about a run that stands still."""
        self._disk.free()

    def hold(self, operator: Operator, app: App, nodes: Mapping[str, Mapping[str, Any]]) -> None:
        """A run from the coming of its nodes to its end."""
        operator.begin(app, nodes)
        try:
            self._until(lambda: operator.done)
        finally:
            self.mend()
            operator.leave()

    def _until(self, over: Callable[[], bool]) -> None:
        until_s, said = time.monotonic() + PATIENCE_S, self._federation.zygote.said
        while not over():
            assert time.monotonic() < until_s, "the run does not end"
            self._restart_the_dead()
            while self._due and self._due[0][0] <= time.monotonic():
                heapq.heappop(self._due)[2]()
            with said:
                if len(self._federation.events) == self._heard and not over():
                    said.wait(max(min(self._due[0][0] - time.monotonic() if self._due else 5.0, 5.0), 0.0))

    def hear(self, event: Event) -> None:
        """For who must know what happens."""

    def bury(self, name: str) -> None:
        """It is dead: let it come back."""
        self.later(self._down_s.pop(name, self._usually_down_s), lambda: self._federation.restart(name))

    def later(self, after_s: float, do: Callable[[], None]) -> None:
        """Do it then."""
        heapq.heappush(self._due, (time.monotonic() + after_s, next(self._number), do))

    def _restart_the_dead(self) -> None:
        events = self._federation.events
        new, self._heard = events[self._heard :], len(events)
        names = {pid: name for name, pid in self._federation.pids.items()}
        for event in new:
            self.hear(event)
            if event["said"] == "dies":
                self.happened[f"{event['moment']} {event['program']}'s {event['point']}"] += 1
            elif event["said"] == "repeated":
                self.happened["repeated call"] += 1
            elif event["said"] == "trains" and not self._begun:
                self._begun = True
                self._next_fault()
            elif event["said"] == "ended" and event["child"] in names:
                self.bury(names[event["child"]])

    def _next_fault(self) -> None:
        fault = next(self._faults, None)
        if fault is not None:
            self.later(fault.after_s, lambda: self._strike(fault))

    def _strike(self, fault: Fault) -> None:
        federation, links, whom = self._federation, self._federation.links, fault.whom
        self.happened[f"{fault.trouble} {'coordinator' if whom == 'coordinator' else 'node'}"] += 1
        match fault.trouble:
            case "kill":
                self._down_s[whom] = fault.lasts_s
                federation.kill(whom)
            case "kill agent":
                self._down_s[whom] = fault.lasts_s
                federation.kill(whom, alone=True)
            case "kill trainer":
                federation.kill_trainer(whom)
            case "cut":
                links.cut(whom, fault.how)
            case "cut in a body":
                links.cut_after(whom, fault.way, fault.count, fault.how)
            case "stall":
                links.stall(whom, on=True)
                self.later(fault.lasts_s, lambda: links.stall(whom, on=False))
            case "slow":
                links.slow(whom, 500_000.0, fault.lasts_s / 50)
                self.later(fault.lasts_s * 2, lambda: links.slow(whom, float("inf"), 0.0))
            case "full disk":
                self._disk.fill(fault.count)
                self.later(fault.lasts_s, self._disk.free)
        self._next_fault()


def play(zygote: Zygote, script: Script, folder: Path) -> Outcome:
    """Hold a run as the script says, and judge it.

    Raises: AssertionError, if anything was lost.
    """
    folder.mkdir(parents=True, exist_ok=True)
    app, began_s = made(script.kind, script.size, ROUNDS), time.monotonic()
    app_file = write_app(folder, script.kind, script.size, PAUSE_S)
    with ExitStack() as stack:
        disk, full = _disk(script, folder, stack)
        federation = stack.enter_context(Federation(zygote, folder, app_file, silence_s=SILENCE_S[script.kind]))
        federation.charges = {name: list(charges) for name, charges in script.charges.items()}
        federation.add_coordinator(clock=script.clocks.get("coordinator"), full=full)
        names = [f"node-{number}" for number in range(NODES[script.kind])]
        orders = {name: {"clock": script.clocks.get(name), "repeats": script.repeats.get(name)} for name in names}
        playing = Play(federation, disk, script.faults)
        operator = Operator(federation, playing.mend)
        playing.hold(operator, app, orders)
        events = federation.events
        outcome = Outcome(time.monotonic() - began_s, pauses=operator.pauses, happened=playing.happened)
        judge(script, app, folder, operator.facts, events, outcome)
    return outcome


def _disk(script: Script, folder: Path, stack: ExitStack) -> tuple[Disk, str | None]:
    """The coordinator's disk, and the file that says that it is full, where that is only said."""
    flag = Flag(folder / "full")
    if not any(fault.trouble == "full disk" for fault in script.faults):
        return flag, None
    if script.seed % 2 and disks.can_mount():
        return stack.enter_context(small_disk(folder / "coordinator")), None
    return flag, str(flag.path)


def judge(
    script: Script, app: App, folder: Path, found: Sequence[Mapping[str, Any]], events: Sequence[Event],
    outcome: Outcome,
) -> None:  # fmt: skip
    """Hold what is known of the runs to what was promised.

    Raises: AssertionError.
    """
    undisturbed = judging.quiet(script.kind, script.size, ROUNDS) if script.kind == "strict" else ()
    for facts in found:
        judging.check_finished(facts, app, folder)
        digests = judging.models(facts)
        outcome.digests += digests
        outcome.missed += sum(bool(record["missed"]) for record in facts["records"])
        if script.kind == "strict":
            assert digests == list(undisturbed), "the models are not those of the quiet run"
        else:
            judging.check_records(facts, app)
    assert found
    if not outcome.pauses:  # what was not written down when a run paused is refused, and made again when it goes on
        again = judging.trained_again(events)
        assert not again, "; ".join(again)
    outcome.trainings = judging.trainings(events)
