"""The node's half of a round: answer one ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from lycia.core import admission, keys
from lycia.core.keys import Key
from lycia.core.layout import Layout, Model
from lycia.core.messages import (
    BASELINE,
    DESCRIBE,
    EVALUATE,
    EVALUATE_BY_EVALUATOR,
    TRAIN,
    Answer,
    Ask,
    Declined,
    Reply,
    Scores,
    Updates,
)
from lycia.core.parts import Arrays, NodeView
from lycia.core.plan import Buffered, Plan
from lycia.core.space import MEMORY, Space, blocks
from lycia.core.training import DescribesFeatures, LocalTask, NodeData, Trainer
from lycia.errors import DataError, TrainingError

Memory = Mapping[str, np.ndarray]
"""What a node keeps from round to round: "local", "statistics", and "0/…", "1/…" for the parts in plan order."""

_RECOVERABLE = (TrainingError, DataError)


@dataclass(frozen=True)
class Node:
    """One node: its name, its data, what it remembers, and 32 bytes that it drew for this run, round and attempt."""

    name: str
    data: NodeData
    memory: Memory
    secret: bytes = b""


def work(
    trainer: Trainer, plan: Plan, layout: Layout, ask: Ask, node: Node, space: Space = MEMORY
) -> tuple[Reply, Memory]:
    """The node's reply to `ask`, and what it remembers from now on. An update lies in `space`.

    Local work that cannot be done (no examples, data that the trainer refuses) is a `Declined`, not an exception.
    """
    try:
        if ask.exchange == TRAIN:
            return _train(trainer, plan, layout, ask, node, space)
        if ask.exchange in (EVALUATE, EVALUATE_BY_EVALUATOR, BASELINE):
            return _measure(trainer, plan, layout, ask, node), node.memory
        if ask.exchange == DESCRIBE:
            return _describe(trainer, plan, ask, node), node.memory
        return _answer(trainer, plan, layout, ask, node)
    except _RECOVERABLE as error:
        return Declined(ask.task, node.name, error.what), node.memory


def _train(trainer: Trainer, plan: Plan, layout: Layout, ask: Ask, node: Node, space: Space) -> tuple[Reply, Memory]:
    if node.data.train is None:
        return Declined(ask.task, node.name, "it has no data to train on"), node.memory
    asked = _own_model(layout, _model(ask), node.memory)
    own = _memory_of(plan, node.memory)
    rule = plan.client
    term = rule.term(asked.trained, ask.told, own[1])
    key = _key(plan, ask, node)
    result = trainer.train(LocalTask(layout, asked, node.data.train, key.at("train"), term, ask.round))
    layout.check_model(result.model)
    delta = _difference(result.model.trained, asked.trained, space)
    sent, own[1] = rule.finish(delta, result, ask.told, own[1])
    extra = {name: array[np.newaxis] for name, array in sent.items()}
    if admission.shares_statistics(layout, plan):
        extra["statistics"] = (result.model.statistics - _model(ask).statistics)[np.newaxis]
    metrics = {name: np.array([value], dtype=np.float64) for name, value in result.metrics.items()}
    updates = Updates(
        ask.task, (node.name,), delta[np.newaxis], np.array([result.weight], dtype=np.float64), extra, metrics
    )
    for index, stage in enumerate(plan.stages, start=len(plan.parts) - len(plan.stages)):
        updates, own[index] = stage.on_node(updates, _view(trainer, layout, plan, ask, node, own[index], index))
    if updates.delta.dtype == np.float32:  # last of all, for what a stage makes of it must fit the wire as well
        updates = replace(updates, delta=layout.round_trip("trained", updates.delta, update=True, space=space))
    memory = {f"{index}/{name}": array for index, arrays in own.items() for name, array in arrays.items()}
    if layout.size("local"):
        memory["local"] = result.model.local
    if layout.size("statistics") and not admission.shares_statistics(layout, plan):
        memory["statistics"] = result.model.statistics
    return updates, memory


def _difference(after: np.ndarray, before: np.ndarray, space: Space) -> np.ndarray:
    delta = space.empty(len(before), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found by admission, which names the node
        for block in blocks(len(before)):
            np.subtract(after[block].astype(np.float32, copy=False), before[block], out=delta[block])
    return delta


def _describe(trainer: Trainer, plan: Plan, ask: Ask, node: Node) -> Reply:
    if plan.normalisation is None or not isinstance(trainer, DescribesFeatures):
        return Declined(ask.task, node.name, "the plan that it has does not let it describe its features")
    if node.data.train is None:
        return Declined(ask.task, node.name, "it has no data to describe")
    return Answer(ask.task, node.name, trainer.moments(node.data.train).to_bytes())


def _measure(trainer: Trainer, plan: Plan, layout: Layout, ask: Ask, node: Node) -> Reply:
    if node.data.held_out is None:
        return Declined(ask.task, node.name, "it has no held-out data to measure on")
    if ask.exchange == BASELINE:
        if node.data.train is None:
            return Declined(ask.task, node.name, "it has no data to train on alone")
        model = _alone(trainer, plan, layout, _model(ask), node)
    else:
        model = _own_model(layout, _model(ask), node.memory)
    examples, metrics = trainer.evaluate(layout, model, node.data.held_out)
    columns = {name: np.array([value], dtype=np.float64) for name, value in metrics.items()}
    return Scores(ask.task, (node.name,), np.array([examples], dtype=np.float64), columns)


def _alone(trainer: Trainer, plan: Plan, layout: Layout, model: Model, node: Node) -> Model:
    for number in range(plan.evaluation.baseline_rounds):
        key = Key(plan.seed).at("alone", number, node.name, "train")
        model = trainer.train(LocalTask(layout, model, node.data.train, key, round=number)).model
    return model


def _answer(trainer: Trainer, plan: Plan, layout: Layout, ask: Ask, node: Node) -> tuple[Reply, Memory]:
    part = plan.part_of(ask.exchange)
    index = next(place for place, candidate in enumerate(plan.parts) if candidate is part)
    own = _memory_of(plan, node.memory)
    body, own[index] = part.answer(ask.exchange, _view(trainer, layout, plan, ask, node, own[index], index))
    kept = {name: array for name, array in node.memory.items() if not name.startswith(f"{index}/")}
    return Answer(ask.task, node.name, body), {
        **kept,
        **{f"{index}/{name}": array for name, array in own[index].items()},
    }


def _view(trainer: Trainer, layout: Layout, plan: Plan, ask: Ask, node: Node, memory: Arrays, index: int) -> NodeView:
    key, secret = _key(plan, ask, node).at("part", index), keys.derived(node.secret, f"part {index}")
    return NodeView(ask, node.name, key, secret, memory, _measurer(trainer, layout, ask, node))


def _measurer(trainer: Trainer, layout: Layout, ask: Ask, node: Node) -> Callable[[], Mapping[str, float]]:
    def measure() -> Mapping[str, float]:
        if node.data.train is None:
            raise DataError(
                "it has no data to train on.",
                why="a part of the plan measures the model on a node's training data.",
                do="give the node training data, or make it an evaluator.",
            )
        examples, metrics = trainer.evaluate(layout, _own_model(layout, _model(ask), node.memory), node.data.train)
        return {"examples": examples, **metrics}

    return measure


def _memory_of(plan: Plan, memory: Memory) -> dict[int, Arrays]:
    return {
        index: {name.removeprefix(f"{index}/"): array for name, array in memory.items() if name.startswith(f"{index}/")}
        for index in range(len(plan.parts))
    }


def _own_model(layout: Layout, model: Model, memory: Memory) -> Model:
    local, statistics = memory.get("local"), memory.get("statistics")
    if local is not None and local.shape == (layout.size("local"),):
        model = replace(model, local=local)
    if statistics is not None and statistics.shape == (layout.size("statistics"),):
        model = replace(model, statistics=statistics)
    return model


def _model(ask: Ask) -> Model:
    if ask.model is None:
        raise TrainingError(
            f"exchange {ask.exchange!r} came without a model.",
            why="there is nothing to train or measure without one.",
            do="name the exchange in the part's `with_model`.",
        )
    return ask.model


def _key(plan: Plan, ask: Ask, node: Node) -> Key:
    # In a buffered run a node may train the same version twice; elsewhere a repeated ask must give the same update.
    place = (ask.round, ask.task) if isinstance(plan.schedule, Buffered) else (ask.round,)
    return Key(plan.seed).at(*place, node.name)
