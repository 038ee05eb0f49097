"""What must be true of a run, whatever happened in it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lycia import simulate
from lycia.core import admission
from lycia.core import closing as core_closing
from lycia.core.events import Asked, Heard, Opened, Settled
from lycia.core.keys import Key
from lycia.core.messages import TRAIN, Ask, Updates
from lycia.core.plan import App
from lycia.core.round import Carried, Round, Run, first, grid_of, replay
from lycia.core.work import Node, work
from lycia.storage.blobs import BlobFolder
from lycia.storage.carrying import model_digest
from tests.chaos.apps import Kind, made

Facts = Mapping[str, Any]


@cache
def quiet(kind: Kind, size: int, rounds: int) -> tuple[str, ...]:
    """The digests of all models of the run in which nothing ever happens."""
    return tuple(models(simulate(made(kind, size, rounds)).facts))


def models(facts: Facts) -> list[str]:
    """The digest of the model that each round made."""
    return [record["model"] for record in facts["records"] if record["model"]]


def check_finished(facts: Facts, app: App, folder: Path) -> None:
    """It ended as it should, with a model for each round, and the bytes of every one are what its digest names."""
    assert facts["state"] == "finished", facts["reason"]
    made_in = [record["round"] for record in facts["records"] if record["model"]]
    assert made_in == list(range(app.plan.rounds))
    blobs = BlobFolder(folder / "coordinator" / "blobs", read_only=True)
    for digest in models(facts):
        blobs.check(digest)


def check_records(facts: Facts, app: App) -> None:
    """Each round's model follows from its own record: the survivors' updates are made again, and combined again."""
    assert app.population is not None
    layout, model = app.trainer.first_model(app.schema, Key(app.plan.seed).at("first model"))
    run = Run(facts["id"], app.plan, layout)
    carried = first(run, model)
    for record in facts["records"]:
        if record["model"]:
            carried = _closed(run, carried, app, record)
            digest = model_digest(layout, carried.model)
            assert digest == record["model"], f"the model of round {record['round'] + 1} is not the one of its record"


def _closed(run: Run, carried: Carried, app: App, record: Facts) -> Carried:
    survivors, bound, number = record["survivors"], record["norm_bound"], record["round"]
    assert set(survivors) <= set(record["asked"][TRAIN])
    assert len(survivors) >= app.plan.quorum * app.plan.selector.goal(record["population"])
    updates = {node: _update(run, carried, app, node, number) for node in survivors}
    norms = {node: float(admission.measure(update).norms[0]) for node, update in updates.items()}
    assert record["norms"] == norms
    assert record["weights"] == {node: float(update.weight[0]) for node, update in updates.items()}
    nodes = tuple(survivors)
    opened = Opened(0.0, number, record["attempt"], "train", record["population"], b"", bound)
    heard = Heard(
        0.0, 0, nodes, nodes, tuple(record["weights"][node] for node in nodes), tuple(norms[node] for node in nodes)
    )
    current = replay(run, [opened, Asked(0.0, 0, TRAIN, nodes), heard, Settled(0.0, TRAIN, nodes)])
    assert isinstance(current, Round)
    grid = grid_of(run, current)
    assert record["grid_exponent"] == (grid.exponent if grid else None)
    return core_closing.close(run, carried, current, updates.__getitem__)


def _update(run: Run, carried: Carried, app: App, name: str, number: int) -> Updates:
    model = run.layout.as_sent(carried.model)
    ask = Ask(run.id, run.plan.digest, number, 0, 0, TRAIN, (name,), model)
    reply, _ = work(app.trainer, run.plan, run.layout, ask, Node(name, app.population[name], {}))
    assert isinstance(reply, Updates)
    return Updates(reply.task, reply.nodes, reply.delta, reply.weight, reply.extra, reply.metrics, (name,))


def trained_again(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each training that was asked of a node which had that very update finished on its disk."""
    finished: set[tuple[Any, ...]] = set()
    again = []
    for event in events:
        if event["said"] in ("trains", "has trained"):
            place = (event["name"], event["run"], event["task"])
            if event["said"] == "has trained":
                finished.add(place)
            elif place in finished:
                again.append(f"{event['name']} trains round {event['round'] + 1} again (task {event['task']})")
    return again


def trainings(events: Sequence[Mapping[str, Any]]) -> Counter[tuple[str, int]]:
    """(node, round) → how often it trained."""
    return Counter((event["name"], event["round"]) for event in events if event["said"] == "trains")
