"""Handwritten digits at four sites, each of which mostly sees two or three of them.

    lycia simulate examples/digits.py

Together the sites come to recognise 19 of 20 digits that nobody trained on; alone, about two of three. The report says
so for every site: `baseline_rounds` lets each train alone, too, with the same local work.
"""

from functools import cache

from lycia import (
    SGD,
    App,
    Evaluation,
    Everyone,
    ExampleWeightedMean,
    FedAvg,
    Key,
    NodeData,
    NumpyTrainer,
    Plan,
    Population,
)
from lycia.data import DIGITS, by_label_shards, digits, evenly, hold_out

SITES = ("north", "east", "south", "west")


@cache
def shares() -> dict[str, NodeData]:
    key = Key(0)
    kept = hold_out(digits(), 0.25, key.at("held out"))
    train = by_label_shards(kept.train, len(SITES), key.at("train"), shards=2, mixed=0.08)
    held_out = evenly(kept.held_out, len(SITES), key.at("measure"))
    return {site: NodeData(*parts) for site, *parts in zip(SITES, train, held_out, strict=True)}


app = App(
    name="digits",
    trainer=NumpyTrainer(hidden=(64,), learning_rate=0.1, batch_size=16, epochs=4),
    plan=Plan(
        rounds=20,
        selector=Everyone(),
        client=FedAvg(),
        aggregator=ExampleWeightedMean(),
        server=SGD(momentum=0.7),
        evaluation=Evaluation(baseline_rounds=20),
    ),
    population=Population(SITES, lambda site: shares()[site]),
    schema=DIGITS,
)
