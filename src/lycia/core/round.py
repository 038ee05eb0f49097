"""The server's half of a round: a program whose state is a value.

`next_step` says what to do now; `hear` turns a reply into events; `take` makes the state after an event. Nothing here
waits, sends or stores: the loop in `lycia.runtime.runner` does, and writes each event down before anyone can see it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lycia.core import admission, keys, normalising
from lycia.core.events import Asked, Closed, Dropped, Ended, Event, Heard, Opened, Purpose, Settled
from lycia.core.grid import Grid
from lycia.core.layout import Layout, Model
from lycia.core.messages import (
    BASELINE,
    DESCRIBE,
    EVALUATE,
    EVALUATE_BY_EVALUATOR,
    TRAIN,
    Ask,
    Updates,
)  # fmt: skip
from lycia.core.parts import Arrays, Part, Roster, ServerView, Stage
from lycia.core.plan import CAPACITY, Buffered, Plan, share
from lycia.core.space import MEMORY, Space, blocks
from lycia.errors import JournalError, PlanError, SelectionError

CLOSE = "close"
MEASURING = (EVALUATE, EVALUATE_BY_EVALUATOR, BASELINE)
ASIDE = (*MEASURING, DESCRIBE)
"""The exchanges that leave the cohort as it is."""


@dataclass(frozen=True)
class Run:
    """What does not change from round to round."""

    id: str
    plan: Plan
    layout: Layout


@dataclass(frozen=True)
class Carried:
    """All that goes from one round to the next.

    Attributes:
      round: the number of the next round, and the version of the model.
      slots: the arrays of the server optimizer ("server/…") and of the parts ("0/…", "1/…" in plan order).
      norms: the median norm of each closed round, the latest last.
      task: the next number that no ask has had.
      best, since_best: the best figure of the plan's stop metric, and how many measurements ago it was.
      inflight: tasks of a buffered run that were asked and not heard: number → (node, version).
      participation: how often each node was heard, in a buffered run.
      attempt: the number of the next attempt at the next round.
      finished: why there are no more rounds of training; "" while there are.
      over: there is nothing left to do, the epilogue included.
      first_attempt: the number of every round's first attempt: 0, until the run is rolled back; then it grows, so that
        no (round, attempt) ever comes twice.
      undone: as in `Ask`.
      answered: task → who was heard, of the last rounds: whoever did not learn of it, and sends its answer again when
        its round is over, was taken all the same.
    """

    round: int
    model: Model
    slots: Arrays
    norms: tuple[float, ...] = ()
    task: int = 0
    best: float | None = None
    since_best: int = 0
    inflight: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    participation: Mapping[str, int] = field(default_factory=dict)
    finished: str = ""
    over: bool = False
    attempt: int = 0
    first_attempt: int = 0
    undone: tuple[tuple[int, int], ...] = ()
    answered: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One ask as the round remembers it; `version` is the round whose model was asked with."""

    exchange: str
    version: int
    nodes: tuple[str, ...]
    asked_s: float


@dataclass(frozen=True)
class Round:
    """One attempt at one round.

    Attributes:
      program: the exchanges that are still to be held, the current one first; "close" among them.
      present: the nodes that came through the last exchange; None before the first one.
      heard: exchange → node → (event, row of it).
      dropped: exchange → node → why it will not be heard.
      late: (node, reason) of everything that came too late.
      model: the digest of the model that the round made; "" before.
    """

    opened: Opened
    program: tuple[str, ...]
    present: tuple[str, ...] | None = None
    tasks: Mapping[int, Task] = field(default_factory=dict)
    heard: Mapping[str, Mapping[str, tuple[Heard, int]]] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, Dropped]] = field(default_factory=dict)
    late: tuple[Dropped, ...] = ()
    model: str = ""
    ended: Ended | None = None

    @classmethod
    def begin(cls, run: Run, opened: Opened) -> "Round":
        """The round as it is when it has just been opened."""
        return cls(opened, _program(run.plan, opened))

    def asked(self, exchange: str) -> dict[str, int]:
        """Who was asked in an exchange, with the latest task of each, in the order asked."""
        return {node: number for number, task in self.tasks.items() if task.exchange == exchange for node in task.nodes}

    def waiting(self, exchange: str) -> list[str]:
        """Who was asked in an exchange and has neither answered nor dropped out."""
        gone = self.heard.get(exchange, {}).keys() | self.dropped.get(exchange, {}).keys()
        return [node for node in self.asked(exchange) if node not in gone]

    def answers(self) -> dict[str, dict[str, bytes]]:
        """exchange → node → the body of its answer, for the exchanges that parts hold."""
        return {
            exchange: {node: event.bodies[row] for node, (event, row) in answers.items() if event.bodies}
            for exchange, answers in self.heard.items()
        }


@dataclass(frozen=True)
class Wait:
    """Nothing to do until a reply comes, or until this time on the run's clock."""

    until_s: float


@dataclass(frozen=True)
class Close:
    """Make the next model from the updates that were heard."""


@dataclass(frozen=True)
class Done:
    """The round is over and written down."""


Step = Asked | Settled | Ended | Wait | Close | Done


def first(run: Run, model: Model, space: Space = MEMORY) -> Carried:
    """What a run carries into its first round."""
    plan, size = run.plan, run.layout.size("trained")
    slots = {f"server/{name}": space.empty(size, array.dtype) for name, array in plan.server.slots(0).items()}
    for block in blocks(size):  # an optimizer works coordinate by coordinate, so any split gives the same
        for name, array in plan.server.slots(block.stop - block.start).items():
            slots[f"server/{name}"][block] = array
    for index, part in enumerate(plan.parts):
        for name, array in part.slots(run.layout).items():
            slots[f"{index}/{name}"] = array
    return Carried(0, model, slots)


def slots_of(carried: Carried, owner: str) -> dict[str, np.ndarray]:
    """The arrays of one owner: "server", or the index of a part."""
    return {
        name.removeprefix(f"{owner}/"): array for name, array in carried.slots.items() if name.startswith(f"{owner}/")
    }


def opening(run: Run, carried: Carried, at_s: float, attempt: int, population: int, secret: bytes) -> Opened:
    """The event that opens the next round; once training is finished, that is the epilogue."""
    purpose: Purpose = "epilogue" if carried.finished else "train"
    bound = admission.next_norm_bound(run.plan, carried.norms)
    wanted = run.plan.normalisation is not None and purpose == "train" and carried.round == 0
    describes = wanted and normalising.awaits_description(carried.model)
    return Opened(at_s, carried.round, attempt, purpose, population, secret, bound, describes)


def replay(run: Run, events: Iterable[Event]) -> Round | None:
    """The state of the round that the events tell of; None if they tell of none yet.

    Raises: JournalError, if they do not begin with an opening.
    """
    current: Round | None = None
    for event in events:
        if isinstance(event, Opened):
            current = Round.begin(run, event)
        elif current is None:
            raise JournalError(
                f"a journal begins with {type(event).__name__}.",
                why="a round begins when it is opened; without that nothing is known of its cohort.",
                do="run `lycia scrub` on the storage of this run; the rounds before it are not affected.",
            )
        else:
            current = take(current, event)
    return current


def take(current: Round, event: Event) -> Round:
    """The state after `event`. Taking an event twice gives the same state as taking it once."""
    match event:
        case Asked():
            task = Task(event.exchange, current.opened.round, event.nodes, event.at_s)
            return replace(current, tasks={**current.tasks, event.task: task})
        case Heard():
            exchange = _exchange_of(current, event.task)
            known = current.heard.get(exchange, {})
            new = {node: (event, row) for row, node in enumerate(event.nodes) if node not in known}
            dropped = {node: why for node, why in current.dropped.get(exchange, {}).items() if node not in new}
            return replace(
                current,
                heard={**current.heard, exchange: {**known, **new}},
                dropped={**current.dropped, exchange: dropped},
            )
        case Dropped(kind="late"):
            return current if event in current.late else replace(current, late=(*current.late, event))
        case Dropped():
            exchange = _exchange_of(current, event.task)
            return replace(
                current, dropped={**current.dropped, exchange: {**current.dropped.get(exchange, {}), event.node: event}}
            )
        case Settled():
            if not current.program or current.program[0] != event.exchange:
                return current
            kept = current.present if event.exchange in ASIDE else event.nodes
            return replace(current, program=current.program[1:], present=kept)
        case Closed():
            program = current.program[1:] if current.program[:1] == (CLOSE,) else current.program
            return replace(current, program=program, model=event.model)
        case Ended():
            return replace(current, program=(), ended=event)
        case Opened():
            return current


def next_step(run: Run, carried: Carried, current: Round, roster: Roster, now_s: float) -> Step:
    """What to do now. What it returns is written down, and thereby decided, before anyone is told.

    Raises: SelectionError, if the selector or a part names nodes that cannot be asked.
    """
    if current.ended:
        return Done()
    if not current.program:
        return Ended(now_s)
    exchange = current.program[0]
    if exchange == CLOSE:
        return Close()
    if isinstance(run.plan.schedule, Buffered) and exchange == TRAIN:
        return _next_buffered(run.plan.schedule, run, carried, current, roster, now_s)
    asked = current.asked(exchange)
    if not asked:
        nodes = _whom(run, carried, current, exchange, roster)
        return _asked(carried, current, exchange, nodes, now_s) if nodes else _settle(run, current, exchange, now_s)
    heard, waiting = current.heard.get(exchange, {}), current.waiting(exchange)
    asked_s = min(task.asked_s for task in current.tasks.values() if task.exchange == exchange)
    deadline_s = asked_s + run.plan.rules.deadline_s
    if room(run, current) <= 0 or now_s >= deadline_s:
        return _settle(run, current, exchange, now_s)
    drawn = current.present is None and exchange not in ASIDE
    wanted = _wanted(run.plan, current)
    if drawn and run.plan.replacement and len(heard) + len(waiting) < wanted:
        missing = min(wanted - len(heard) - len(waiting), _capacity(run.plan, current) - len(asked))
        spare = _draw(run, current, roster, max(missing, 0), frozenset(asked), f"replacement {len(current.tasks)}")
        if spare:
            return _asked(carried, current, exchange, spare, now_s)
    if not waiting:
        return _settle(run, current, exchange, now_s)
    return Wait(deadline_s)


def ask(run: Run, carried: Carried, current: Round, asked: Asked, space: Space = MEMORY) -> Ask:
    """What the nodes are sent, as it follows from the decision that was written down."""
    plan, exchange, opened = run.plan, asked.exchange, current.opened
    arrays: dict[str, np.ndarray] = {}
    each: dict[str, bytes] = {}
    needs_model = exchange in (TRAIN, *MEASURING)
    for index, part in enumerate(plan.parts):
        told = part.tell(exchange, view(run, carried, current, index))
        _check_new(part, exchange, {*arrays, *each} & {*told.arrays, *told.each})
        arrays.update(told.arrays)
        each.update(told.each)
        needs_model = needs_model or exchange in part.with_model
    return Ask(
        run.id, plan.digest, carried.round, opened.attempt, asked.task, exchange, asked.nodes,
        run.layout.as_sent(model_of(carried, current), space) if needs_model else None, arrays, each, opened.norm_bound,
        grid_of(run, current) if exchange == TRAIN else None, plan.rules.weight_cap, plan.rules.deadline_s,
        carried.undone,
    )  # fmt: skip


def model_of(carried: Carried, current: Round) -> Model:
    """The model that the round works from: as it was carried here, its features scaled as nodes have described them."""
    bodies = current.answers().get(DESCRIBE)
    return normalising.described(carried.model, bodies) if bodies else carried.model


def outstanding(run: Run, carried: Carried, current: Round, space: Space = MEMORY) -> list[Ask]:
    """What must be asked again after a restart: the open asks of this exchange, for those who have not answered."""
    if not current.program:
        return []
    waiting = set(current.waiting(current.program[0]))
    return [
        ask(run, carried, current, Asked(task.asked_s, number, task.exchange, still), space)
        for number, task in current.tasks.items()
        if task.exchange == current.program[0] and (still := tuple(node for node in task.nodes if node in waiting))
    ]


def in_flight(run: Run, carried: Carried, events: Iterable[Event]) -> list[Ask]:
    """What nodes may still work on after a restart of a buffered run, and must be able to deliver.

    These asks come without their models, which are gone: a node that has not fetched its one yet declines.
    """
    done = {event.task for event in events if isinstance(event, (Heard, Dropped))}
    return [
        Ask(
            run.id,
            run.plan.digest,
            version,
            0,
            number,
            TRAIN,
            (node,),
            deadline_s=run.plan.rules.deadline_s,
            undone=carried.undone,
        )
        for number, (node, version) in carried.inflight.items()
        if number not in done
    ]


def open_tasks(run: Run, current: Round) -> list[int]:
    """The tasks of the current exchange, which end with it; in a buffered run, training goes on."""
    if not current.program or (isinstance(run.plan.schedule, Buffered) and current.program[0] == TRAIN):
        return []
    return [number for number, task in current.tasks.items() if task.exchange == current.program[0]]


def handles(current: Round) -> list[str]:
    """Where the updates that were heard are kept."""
    return list(dict.fromkeys(event.handles[row] for event, row in current.heard.get(TRAIN, {}).values()))


def missed(current: Round) -> str:
    """Why the round did not count; "" if it did, or goes on."""
    return current.ended.missed if current.ended else ""


def view(run: Run, carried: Carried, current: Round, index: int) -> ServerView:
    """What part number `index` of the plan sees on the server."""
    opened, answers = current.opened, current.answers()
    over = [exchange for part in run.plan.parts for exchange in (*part.before, *part.after)]
    return ServerView(
        run.id, run.plan.digest, opened.round, opened.attempt, tuple(sorted(current.present or ())),
        {exchange: answers.get(exchange, {}) for exchange in over if exchange not in current.program},
        slots_of(carried, str(index)), keys.derived(opened.secret, f"part {index}"),
    )  # fmt: skip


def arrive(run: Run, carried: Carried, current: Round, updates: Updates) -> Updates:
    """A block as it was before the stages that are undone for each update."""
    for index, part in reversed(list(enumerate(run.plan.parts))):
        if isinstance(part, Stage) and part.undone == "on_arrival":
            updates = replace(updates, delta=np.asarray(updates.delta))
            updates = part.on_arrival(updates, view(run, carried, current, index))
    return updates


def grid_of(run: Run, current: Round) -> Grid | None:
    """The grid of this round's sum, where the bound fixes it beforehand; None in a run's first rounds."""
    bound = current.opened.norm_bound
    if bound is None:
        return None
    return Grid.covering(_capacity(run.plan, current) * run.plan.largest_weight * bound)


def room(run: Run, current: Round) -> float:
    """How many more updates the open exchange takes; infinite where nothing but its nodes and its deadline end it."""
    exchange, schedule = current.program[0], run.plan.schedule
    if exchange != TRAIN:
        return math.inf
    heard = len(current.heard.get(exchange, {}))
    if isinstance(schedule, Buffered):
        return schedule.size - heard
    return math.inf if current.present is not None or run.plan.selector.exact else _goal(run.plan, current) - heard


def _check_new(part: Part, exchange: str, clashes: set[str]) -> None:
    if clashes:
        raise PlanError(
            f"{type(part).__name__} tells nodes {', '.join(sorted(clashes))} in {exchange!r}, as another part does.",
            why="what is told is told apart by its name, and private bytes by the node they are for.",
            do="drop one of the two parts, or rename what it tells.",
        )


def _program(plan: Plan, opened: Opened) -> tuple[str, ...]:
    if opened.purpose == "epilogue":
        return (BASELINE,)
    before = tuple(exchange for part in plan.parts for exchange in part.before)
    after = tuple(exchange for part in plan.parts for exchange in part.after)
    evaluation = plan.evaluation
    due = (opened.round + 1) % evaluation.every == 0 or opened.round + 1 == plan.rounds
    measures = ((EVALUATE,) if evaluation.nodes else ()) + ((EVALUATE_BY_EVALUATOR,) if evaluation.evaluators else ())
    first = (DESCRIBE,) if opened.describes else ()
    return (*first, *before, TRAIN, *after, CLOSE, *(measures if due else ()))


def _exchange_of(current: Round, number: int) -> str:
    # Tasks of a buffered run outlive the round that asked them; they are all for training.
    return current.tasks[number].exchange if number in current.tasks else TRAIN


def most_asked(plan: Plan, population: int) -> int:
    """How many updates a round may bring, with so many nodes to choose from."""
    if isinstance(plan.schedule, Buffered):
        return plan.schedule.size + plan.schedule.concurrency
    candidates = plan.selector.candidates(_goal_of(plan, population))
    return min(share(plan.over_selection, candidates), max(population, candidates))


def _goal_of(plan: Plan, population: int) -> int:
    return min(plan.selector.goal(population), population)


def _goal(plan: Plan, current: Round) -> int:
    return _goal_of(plan, current.opened.population)


def _wanted(plan: Plan, current: Round) -> int:
    candidates = plan.selector.candidates(_goal(plan, current))
    return min(share(plan.over_selection, candidates), max(current.opened.population, candidates))


def _capacity(plan: Plan, current: Round) -> int:
    """The most updates that one sum may have: what the grid has room for."""
    size = plan.schedule.size if isinstance(plan.schedule, Buffered) else 0
    drawn = next((len(task.nodes) for task in current.tasks.values() if task.exchange not in ASIDE), 0)
    return max(CAPACITY, 2 * _wanted(plan, current), size, drawn)


def _asked(carried: Carried, current: Round, exchange: str, nodes: tuple[str, ...], now_s: float) -> Asked:
    return Asked(now_s, carried.task + len(current.tasks), exchange, nodes)


def _draw(
    run: Run, current: Round, roster: Roster, count: int, without: frozenset[str], purpose: str
) -> tuple[str, ...]:
    selector, random = run.plan.selector, keys.from_entropy(current.opened.secret, purpose)
    drawn = tuple(selector.draw(roster, count, without, random))
    if len(set(drawn)) < len(drawn) or not without.isdisjoint(drawn):
        raise SelectionError(
            f"{type(selector).__name__} drew a node twice: {', '.join(drawn[:20])}.",
            why="a node has one update in a round.",
            do="make `draw` return different names, and none of `without`.",
        )
    return drawn


def _whom(run: Run, carried: Carried, current: Round, exchange: str, roster: Roster) -> tuple[str, ...]:
    plan = run.plan
    if exchange == EVALUATE_BY_EVALUATOR:
        return tuple(sorted(roster.evaluators))
    if exchange in (EVALUATE, BASELINE):
        # The same nodes for the whole run, so that figures can be compared from round to round and with the baseline.
        return _panel(roster, plan.evaluation.nodes, keys.Key(plan.seed).at("evaluation"))
    if exchange == DESCRIBE and plan.normalisation:
        return _panel(roster, plan.normalisation.nodes, keys.Key(plan.seed).at("description"))
    if current.present is None:
        return _draw(run, current, roster, _wanted(plan, current), frozenset(), "cohort")
    program = [name for name in _program(plan, current.opened) if name != DESCRIBE]
    if plan.selector.before and exchange == program[len(plan.selector.before)]:
        return _choose(run, carried, current, current.present)
    return current.present


def _panel(roster: Roster, nodes: int, key: keys.Key) -> tuple[str, ...]:
    count = min(nodes, len(roster))
    picks = key.generator().choice(len(roster), count, replace=False) if count < len(roster) else range(count)
    return tuple(sorted(roster[int(index)] for index in picks))


def _choose(run: Run, carried: Carried, current: Round, present: tuple[str, ...]) -> tuple[str, ...]:
    selector = run.plan.selector
    chosen = tuple(selector.choose(_goal(run.plan, current), view(run, carried, current, 0)))
    strangers = sorted(set(chosen) - set(present))
    if strangers or len(set(chosen)) < len(chosen):
        wrong = (
            f"{', '.join(strangers)}, who did not answer" if strangers else f"a node twice: {', '.join(chosen[:20])}"
        )
        raise SelectionError(
            f"{type(selector).__name__} chose {wrong}.",
            why="a cohort is a set of nodes that are still in the round.",
            do="choose from `view.present`, each node once.",
        )
    return chosen


def _settle(run: Run, current: Round, exchange: str, now_s: float) -> Settled | Ended:
    survivors = tuple(sorted(current.heard.get(exchange, {})))
    if exchange in MEASURING:
        return Settled(now_s, exchange, survivors)
    if exchange == DESCRIBE:
        return Settled(now_s, exchange, survivors) if survivors else Ended(now_s, "no node described its features")
    goal = run.plan.schedule.size if isinstance(run.plan.schedule, Buffered) else _goal(run.plan, current)
    least = max(share(run.plan.quorum, goal), 0 if run.plan.selector.exact else run.plan.aggregator.minimum)
    if len(survivors) < least:
        return Ended(now_s, f"{len(survivors)} of {goal} nodes were heard in {exchange!r}, and the quorum is {least}")
    return Settled(now_s, exchange, survivors)


def _next_buffered(
    schedule: Buffered, run: Run, carried: Carried, current: Round, roster: Roster, now_s: float
) -> Step:
    if room(run, current) <= 0:
        return _settle(run, current, TRAIN, now_s)
    training = still_training(carried, current)
    useful = [version for _, version in training.values() if carried.round - version <= schedule.max_staleness]
    if len(useful) < schedule.concurrency:
        taken = current.heard.get(TRAIN, {}).keys() | current.dropped.get(TRAIN, {}).keys()
        busy = taken | {node for node, _ in training.values()}
        nodes = _draw(run, current, roster, 1, frozenset(busy), f"buffer {len(current.tasks)}")
        if nodes:  # one task each: in a buffered run every node trains at its own time
            return _asked(carried, current, TRAIN, nodes[:1], now_s)
    deadline_s = current.opened.at_s + run.plan.rules.deadline_s
    return Wait(deadline_s) if useful and now_s < deadline_s else _settle(run, current, TRAIN, now_s)


def still_training(carried: Carried, current: Round) -> dict[int, tuple[str, int]]:
    """The tasks of a buffered run that are open now: number → (node, version)."""
    gone = {event.task for event, _ in current.heard.get(TRAIN, {}).values()}
    gone |= {event.task for event in (*current.dropped.get(TRAIN, {}).values(), *current.late)}
    mine = {number: (task.nodes[0], task.version) for number, task in current.tasks.items() if task.exchange == TRAIN}
    return {number: task for number, task in {**carried.inflight, **mine}.items() if number not in gone}
