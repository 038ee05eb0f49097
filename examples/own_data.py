"""An app for data of your own: pumps at four plants, and whether each failed within a week.

    lycia simulate examples/own_data.py

That tries it on plants that are made up here. On a real node, the data is what a function of yours returns:

    lycia join INVITATION --app examples/own_data.py --data examples/own_data_node.py:load

The schema is what the plants agree on beforehand. A node whose data differs learns so when it joins: that a column is
missing, that temperatures are beyond what any pump has, that a label is none of the two.
"""

import numpy as np

from lycia import (
    SGD,
    App,
    Everyone,
    Examples,
    ExampleWeightedMean,
    FedProx,
    Key,
    NodeData,
    NumpyTrainer,
    Plan,
    Population,
    Schema,
)
from lycia.data import Column, hold_out

PUMPS = Schema(
    columns=(
        Column("temperature", unit="°C", bounds=(-20, 150)),
        Column("vibration", unit="mm/s", bounds=(0, 50)),
        Column("age", "integer", unit="months", bounds=(0, 600)),
        Column("kind", "category", categories=(1, 2, 3)),
    ),
    labels=("sound", "failed"),
)
WARMTH = {"coast": -10, "desert": 25, "hills": 0, "city": 5}  # °C above the usual: plants differ


def made_up(plant: str) -> NodeData:
    random = Key(0).at(plant).generator()
    temperature = random.normal(60 + WARMTH[plant], 15, 400).clip(-20, 150)
    vibration = random.gamma(3, 3, 400).clip(0, 50)
    age = random.integers(0, 240, 400)
    kind = random.integers(1, 4, 400)
    strain = temperature / 25 + vibration / 4 + age / 80 + random.normal(0, 0.5, 400)
    features = np.column_stack([temperature, vibration, age, kind])
    names = tuple(column.name for column in PUMPS.columns)
    return hold_out(Examples(features, np.where(strain > 7, "failed", "sound"), names), 0.25, Key(1).at(plant))


app = App(
    name="pumps",
    trainer=NumpyTrainer(hidden=(16,), learning_rate=0.5, scaled=True),  # scaled: by the bounds in the schema
    plan=Plan(
        rounds=20,
        selector=Everyone(),
        client=FedProx(mu=0.01),
        aggregator=ExampleWeightedMean(),
        server=SGD(learning_rate=1.0),
    ),
    population=Population(tuple(WARMTH), made_up),
    schema=PUMPS,
)
