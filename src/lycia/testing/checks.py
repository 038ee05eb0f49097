"""What the system relies on in a part or a trainer, as checks that yours can be held to.

    def test_my_rule_keeps_its_contract():
        check_aggregator(MyRule(trim=2))

Each check returns nothing, or raises a `ContractBroken`: what was seen, which promise that breaks, and what to do.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec

import numpy as np

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.grid import Grid
from lycia.core.keys import Key
from lycia.core.layout import Layout
from lycia.core.messages import TRAIN, Ask, Updates
from lycia.core.parts import Aggregator, ClientRule, NodeView, Part, Selector, ServerOptimizer, ServerView, Stage
from lycia.core.plan import Evaluation, Plan, RoundRules, describe
from lycia.core.training import LocalTask, NodeData, Schema, Trainer
from lycia.errors import LyciaError
from lycia.selection import Everyone
from lycia.testing.fakes import FakeRoster, Fault, Federation, digest_of
from lycia.testing.quadratics import Quadratic, QuadraticTrainer

_SIZE = 7
_NODES = 6
_P = ParamSpec("_P")


class ContractBroken(LyciaError, AssertionError):
    """A part or a trainer does not do what the system relies on."""


def _in_words(check: Callable[_P, None]) -> Callable[_P, None]:
    """The check, with an array that was written into as one more thing that it finds."""

    @wraps(check)
    def checked(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            check(*args, **kwargs)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            raise _broken(
                f"{type(args[0]).__name__} writes into an array that it was given.",
                why="arrays are shared between rounds, nodes and blocks, so nobody changes them in place.",
                do="work on a copy: array + change, not array += change.",
            ) from error

    return checked


@_in_words
def check_aggregator(part: Aggregator) -> None:
    """Weights follow from what is claimed, row by row; a reduction works coordinate by coordinate.

    Raises: ContractBroken.
    """
    _check_value(part)
    for claimed in _claims():
        given = _read_only(claimed)
        weights = part.weights(given)
        _claim(
            weights.shape == claimed.shape and bool(np.isfinite(weights).all() and (weights >= 0).all()),
            f"weights({claimed.tolist()}) is {weights!r}.",
            why="there is one weight for each node, finite and not negative.",
            do="return an array as long as the one given.",
        )
        _claim(
            np.array_equal(part.weights(claimed[::-1]), weights[::-1]),
            "weights(…) depends on the order of the nodes.",
            why="a node counts for what it claims, and not for its place.",
            do="compute each weight from the claims as a set.",
        )
        _claim(
            not part.equal_shares or bool((weights == 1).all()),
            f"equal_shares is true, and weights(…) is {weights.tolist()}.",
            why="privacy and the grid rely on it: equal shares are weights of one.",
            do="return np.ones(len(claimed)), or let equal_shares be False.",
        )
        divisor = part.divisor(weights)
        _claim(
            np.isfinite(divisor) and divisor >= 0,
            f"divisor(…) is {divisor!r}.",
            why="a sum is divided by it, unless it is zero.",
            do="return a finite number that is not negative.",
        )
    if part.shape == "coordinate":
        _check_reduction(part)
    _check_same_in_every_world(_plan(aggregator=part))


@_in_words
def check_selector(part: Selector) -> None:
    """Different names of the roster, none of those ruled out, and the same ones from the same generator.

    Raises: ContractBroken.
    """
    _check_value(part)
    random = np.random.default_rng(2)
    for population in (1, 2, 5, 40):
        names = tuple(f"node {index}" for index in range(population))
        roster = FakeRoster(names, (), tuple(1.0 + random.integers(0, 9, population)))
        goal = part.goal(population)
        _claim(
            type(goal) is int and 0 <= goal <= population and part.candidates(goal) >= goal,
            f"of {population} nodes it wants {goal!r}, and asks {part.candidates(goal)!r} of them first.",
            why="the goal is a number of nodes there are, and its candidates are no fewer.",
            do="return min(…, population) from goal, and at least that from candidates.",
        )
        for count in {0, 1, goal, population}:
            without = frozenset(random.choice(names, random.integers(0, population), replace=False).tolist())
            drawn = part.draw(roster, count, without, np.random.default_rng(3))
            again = part.draw(roster, count, without, np.random.default_rng(3))
            _claim(
                len(set(drawn)) == len(drawn) and set(drawn) <= set(names) - without,
                f"draw(…) gave {drawn}, of {population} nodes without {sorted(without)}.",
                why="a cohort is a set of nodes that there are and that are not ruled out.",
                do="draw without replacement, and leave out the nodes in `without`.",
            )
            _claim(
                part.exact or len(drawn) <= count,
                f"draw(…) gave {len(drawn)} nodes where {count} were wanted.",
                why="a sum has room for those who were wanted.",
                do="return at most `count` names.",
            )
            _claim(
                drawn == again,
                f"draw(…) gave {drawn}, and then {again} from an equal generator.",
                why="a cohort follows from the round's secret alone, so that a restart asks the same nodes.",
                do="take all randomness from the generator that is given.",
            )
    _check_same_in_every_world(_plan(selector=part))


@_in_words
def check_server_optimizer(part: ServerOptimizer) -> None:
    """Works coordinate by coordinate in float32, so that any split of the model gives the same.

    Raises: ContractBroken.
    """
    _check_value(part)
    random = np.random.default_rng(4)
    for size in (0, 1, _SIZE):
        params = _read_only(random.standard_normal(size).astype(np.float32))
        slots: Mapping[str, np.ndarray] = {name: _read_only(slot) for name, slot in part.slots(size).items()}
        for step in range(3):
            mean = _read_only(random.standard_normal(size).astype(np.float32) * np.float32(step))
            after, kept = part.step(params, mean, slots)
            _claim(
                after.shape == (size,)
                and after.dtype == np.float32
                and kept.keys() == slots.keys()
                and all(slot.shape == (size,) and slot.dtype == np.float32 for slot in kept.values()),
                f"step(…) gave {after.dtype}{list(after.shape)} and the slots {sorted(kept)}.",
                why="parameters and slots stay float32 of the model's size, under the names that slots(…) gave.",
                do="compute in np.float32, and return every slot.",
            )
            for cut in range(size + 1):
                pieces = [
                    part.step(params[place], mean[place], {name: slot[place] for name, slot in slots.items()})
                    for place in (slice(None, cut), slice(cut, None))
                ]
                _claim(
                    np.concatenate([piece[0] for piece in pieces]).tobytes() == after.tobytes()
                    and all(
                        np.concatenate([p[1][name] for p in pieces]).tobytes() == kept[name].tobytes() for name in kept
                    ),
                    f"split at {cut}, the step gives other parameters or slots.",
                    why="a large model is stepped in blocks, wherever they happen to be cut.",
                    do="let each coordinate depend on its own parameter, mean and slots only.",
                )
            params, slots = _read_only(after), {name: _read_only(slot) for name, slot in kept.items()}
    _check_same_in_every_world(_plan(server=part))


@_in_words
def check_client_rule(part: ClientRule) -> None:
    """Sends the extras that it declares, and changes nothing that it is given.

    Raises: ContractBroken.
    """
    _check_value(part)
    _check_same_in_every_world(_plan(client=part))


@_in_words
def check_stage(part: Stage) -> None:
    """Leaves what it is given as it is, follows from its view alone, and lives with nodes that drop out anywhere.

    Raises: ContractBroken.
    """
    _check_value(part)
    layout = Layout.of({"w": np.zeros(_SIZE, np.float32)})
    if not part.before:
        view = _node_view(part, layout)
        updates = Updates(
            0, ("node",), _read_only(np.arange(_SIZE, dtype=np.float32)[None]), _read_only(np.array([2.0]))
        )
        first, again = (part.on_node(updates, view)[0] for _ in range(2))
        _claim(
            first.nodes == updates.nodes and first.task == updates.task and first.delta.shape[0] == 1,
            f"on_node(…) gave a block of {first.nodes} with a delta of shape {first.delta.shape}.",
            why="a node hands on its own update, and nobody else's.",
            do="return replace(updates, delta=…).",
        )
        _claim(
            first.delta.tobytes() == again.delta.tobytes(),
            "on_node(…) gives another update when it is called again with an equal view.",
            why="a node that is asked again after a restart sends the same bytes.",
            do="take randomness from view.key or view.secret, and keep nothing elsewhere.",
        )
    plan = _plan(stages=(part,))
    digest = _check_same_in_every_world(plan)
    if part.hides_rows and not part.bounds_share:
        clear = _held(replace(plan, stages=()))
        _claim(
            digest == digest_of(clear.model),
            "the model differs from the one that the same updates give without this stage.",
            why="hiding single updates must not change their sum.",
            do="check that on_sum takes off exactly what on_node added, in arithmetic modulo the words.",
        )
    for exchange in (*part.before, TRAIN, *part.after):
        federation = Federation(plan, QuadraticTrainer(_SIZE), _nodes(), faults=[Fault("node 1", "silence", exchange)])
        try:
            federation.hold()
        except Exception as error:
            raise _broken(
                f"a node that falls silent in {exchange!r} ends the run: {error!r}.",
                why="nodes drop out anywhere; the round goes on with the others, or misses its quorum.",
                do="let tell and on_sum work from view.present and the answers that there are.",
            ) from error


@_in_words
def check_trainer(trainer: Trainer, data: NodeData, schema: Schema | None = None) -> None:
    """Equal keys give equal models; what is given stays as it is; terms are honoured where that is claimed.

    Raises: ContractBroken.
    """
    key = Key(5)
    layout, model = trainer.first_model(schema, key)
    same_layout, same = trainer.first_model(schema, key)
    layout.check_model(model)
    _claim(
        layout == same_layout and digest_of(model) == digest_of(same),
        "first_model(…) gives another model for an equal key.",
        why="every site makes the same first model.",
        do="take all randomness from the key.",
    )
    fixed = replace(model, trained=_read_only(model.trained), statistics=_read_only(model.statistics))
    task = LocalTask(layout, fixed, data.train, key.at("train"))
    result = trainer.train(task)
    again = trainer.train(task)
    layout.check_model(result.model)
    _claim(
        digest_of(result.model) == digest_of(again.model) and result.weight == again.weight,
        "train(…) gives another model when it is called again with an equal task.",
        why="local work follows from the model, the data and the key, so that a run can be repeated.",
        do="seed every generator from task.key, and keep nothing between calls.",
    )
    _claim(
        bool(np.isfinite(result.weight)) and result.weight >= 0,
        f"train(…) says that it learned from {result.weight!r} examples.",
        why="a node counts for its examples.",
        do="return their number.",
    )
    if trainer.takes_terms:
        still = trainer.train(replace(task, term=lambda gradient, _params: np.zeros_like(gradient)))
        _claim(
            np.array_equal(still.model.trained, fixed.trained),
            "the parameters move, though a term made every gradient zero.",
            why="takes_terms is true: each local step uses what the term returns.",
            do="apply task.term to each gradient just before the step, or let takes_terms be False.",
        )
        _claim(
            result.steps > 0 and result.learning_rate > 0,
            f"train(…) says that it took {result.steps} steps of {result.learning_rate}.",
            why="rules with variates divide by both.",
            do="fill in LocalResult.steps and LocalResult.learning_rate.",
        )
    if data.held_out is not None:
        examples, metrics = trainer.evaluate(layout, fixed, data.held_out)
        _claim(
            examples > 0 and all(isinstance(value, (int, float)) for value in metrics.values()),
            f"evaluate(…) measured {examples!r} examples and gave {dict(metrics)!r}.",
            why="metrics are pooled over nodes, weighted by their examples.",
            do="return the number of examples, and plain numbers by name.",
        )


# --------------------------------------------------------------------------------------------- what they have in common


def _check_value(part: object) -> None:
    """A part is a value: it can be written into a plan, and compared."""
    try:
        text = json.dumps(describe(part), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _broken(
            f"{part!r} cannot be written down: {error}.",
            why="a plan is sent, digested and compared as JSON.",
            do="make the part a frozen dataclass of numbers, texts and other parts.",
        ) from None
    _claim(
        hash(part) == hash(copy(part)) and part == copy(part) and "part" in text,
        f"{part!r} is not a value.",
        why="parts are compared and kept as keys.",
        do="make it a frozen dataclass.",
    )


def _check_reduction(part: Aggregator) -> None:
    random = np.random.default_rng(6)
    for nodes in (part.minimum, part.minimum + 3):
        rows = _read_only(random.standard_normal((nodes, _SIZE)).astype(np.float32))
        weights = _read_only(part.weights(np.ones(nodes)))
        reduced = part.reduce(rows, weights)
        _claim(
            reduced.shape == (_SIZE,) and reduced.dtype == np.float32,
            f"reduce(…) of {nodes} rows gave {reduced.dtype}{list(reduced.shape)}.",
            why="the mean update has the model's size, in float32.",
            do="return one float32 for each column.",
        )
        for cut in range(1, _SIZE):
            pieces = [part.reduce(rows[:, place], weights) for place in (slice(None, cut), slice(cut, None))]
            _claim(
                np.concatenate(pieces).tobytes() == reduced.tobytes(),
                f"split at column {cut}, reduce(…) gives something else.",
                why="a large model is reduced in blocks of columns, wherever they happen to be cut.",
                do="let each column of the result depend on that column only.",
            )


def _check_same_in_every_world(plan: Plan) -> str:
    """The digest of the model after two rounds, which does not depend on arrival, blocks, sums or repetition."""
    twice = [Fault(None, "twice", exchange) for exchange in _exchanges(plan)]
    worlds: dict[str, dict[str, Any]] = {
        "as they come": {},
        "in the opposite order": {"arrival_s": _backwards},
        "in blocks of four": {"block": 4},
        "in blocks of four, backwards, each twice": {"block": 4, "arrival_s": _backwards, "faults": twice},
        "as sums": {"block": 3, "sums": True},
    }
    digests = {world: digest_of(_held(plan, **how).model) for world, how in worlds.items()}
    expected = digests["as they come"]
    for world, digest in digests.items():
        _claim(
            digest == expected,
            f"the model differs when updates come {world}.",
            why="a round follows from its record: never from the order, the blocks or the repetition of what arrives.",
            do="keep no state in the part, and let nothing depend on the order in which its methods are called.",
        )
    return expected


def _held(plan: Plan, **fleet: Any) -> Federation:
    federation = Federation(plan, QuadraticTrainer(_SIZE), _nodes(), **fleet)
    outcome = federation.hold()
    _claim(
        outcome.state == "finished",
        f"a run of two healthy rounds was {outcome.state}: {outcome.reason}",
        why="all nodes answer, so every round has its quorum.",
        do="see the reason.",
    )
    return federation


def _plan(
    *,
    selector: Selector | None = None,
    client: ClientRule | None = None,
    aggregator: Aggregator | None = None,
    server: ServerOptimizer | None = None,
    stages: tuple[Stage, ...] = (),
) -> Plan:
    return Plan(
        rounds=2,
        selector=selector or Everyone(),
        client=client or FedAvg(),
        aggregator=aggregator or UniformMean(),
        server=server or SGD(),
        stages=stages,
        rules=RoundRules(norm_bound=64.0, over_selection=1.0),
        evaluation=Evaluation(nodes=2, evaluators=False),
    )


def _nodes() -> dict[str, NodeData]:
    random = np.random.default_rng(7)
    return {f"node {n}": Quadratic.at(random.standard_normal(_SIZE).tolist(), 1.0, n + 1.0) for n in range(_NODES)}


def _exchanges(plan: Plan) -> list[str]:
    return [*(exchange for part in plan.parts for exchange in (*part.before, *part.after)), TRAIN]


def _backwards(ask: Ask, node: str) -> float:
    return float(len(ask.nodes) - ask.nodes.index(node))


def _node_view(part: Part, layout: Layout) -> NodeView:
    model = layout.model({"w": np.zeros(_SIZE, np.float32)})
    told = part.tell(TRAIN, ServerView("run", "plan", 0, 0, ("node",), {}, part.slots(layout), bytes(range(32))))
    ask = Ask("run", "plan", 0, 0, 0, TRAIN, ("node",), model, told.arrays, told.each, 64.0, Grid.covering(2.0**16))
    memory: dict[str, np.ndarray] = {}
    return NodeView(ask, "node", Key(8).at("node"), bytes(range(32)), memory, lambda: {"loss": 1.0})


def _claims() -> Sequence[np.ndarray]:
    return [np.zeros(0), np.ones(1), np.array([0.0, 3.0]), np.array([1.0, 5.0, 2.0, 1e7])]


def _read_only(array: np.ndarray) -> np.ndarray:
    copy = np.array(array)
    copy.flags.writeable = False
    return copy


def _claim(holds: bool, what: str, *, why: str, do: str) -> None:
    if not holds:
        raise _broken(what, why=why, do=do)


def _broken(what: str, *, why: str, do: str) -> ContractBroken:
    return ContractBroken(what, why=why, do=do)
