"""The app of `lycia demo`: handwritten digits, of which every node mostly sees a few."""

from functools import cache

from lycia.aggregators import ExampleWeightedMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.keys import Key
from lycia.core.plan import App, Evaluation, Plan
from lycia.core.training import NodeData
from lycia.data import DIGITS, Population, by_label_shards, digits, evenly, hold_out
from lycia.errors import AppError
from lycia.selection import Everyone
from lycia.trainers import NumpyTrainer


def demo_app(nodes: int = 4, rounds: int = 20, seed: int = 0) -> App:
    """Nodes that must work together: two or three digits dominate what each has to train on, and all digits are asked.

    Measured with 4 nodes and 20 rounds, seeds 0 to 9: together 0.95 or better on the held-out digits; no node alone
    reaches 0.85 with the same local work. Nothing is loaded before a node's data is asked for.

    Raises: AppError, if there are fewer than two nodes.
    """
    if nodes < 2:
        raise AppError(
            f"the demo cannot run with {nodes} nodes.",
            why="a federation has at least two.",
            do="give two nodes or more; four show it best.",
        )
    names = tuple(f"node-{number}" for number in range(1, nodes + 1))
    return App(
        name="digits",
        trainer=NumpyTrainer(hidden=(64,), learning_rate=0.1, batch_size=16, epochs=4),
        plan=Plan(
            rounds=rounds,
            seed=seed,
            selector=Everyone(),
            client=FedAvg(),
            aggregator=ExampleWeightedMean(),
            server=SGD(momentum=0.7),  # nodes pull different ways; what they agree on adds up
            evaluation=Evaluation(baseline_rounds=rounds),
        ),
        population=Population(names, lambda name: shares(names, seed)[name]),
        schema=DIGITS,
    )


@cache
def shares(names: tuple[str, ...], seed: int) -> dict[str, NodeData]:
    """What each node has: training digits of which a few labels dominate, and an even share of the held-out ones."""
    key = Key(seed).at("digits")
    kept = hold_out(digits(), 0.25, Key(0).at("digits", "held out"))  # the same digits, whatever the seed
    train = by_label_shards(kept.train, len(names), key.at("train"), shards=2, mixed=0.08)
    held_out = evenly(kept.held_out, len(names), key.at("measure"))
    return {name: NodeData(*parts) for name, *parts in zip(names, train, held_out, strict=True)}


app = demo_app()
