"""What one plant brings to examples/own_data.py: `load` reads a CSV file and returns the node's data.

    lycia join INVITATION --app examples/own_data.py --data examples/own_data_node.py:load

This file stays at the node; the coordinator never sees it. To try it as it is, it writes a CSV file of its own first;
in your copy, `csv_file` is the path of yours.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np

from lycia import Examples, Key, NodeData
from lycia.data import hold_out

COLUMNS = ("temperature", "vibration", "age", "kind")  # named as in the schema, and in its order


def load() -> NodeData:
    with csv_file().open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    features = np.array([[float(row[column]) for column in COLUMNS] for row in rows])
    labels = np.array(["failed" if row["failed_within_a_week"] == "yes" else "sound" for row in rows])
    return hold_out(Examples(features, labels, COLUMNS), 0.25, Key(0).at("held out"))


def csv_file() -> Path:
    random = Key(0).at("valley").generator()
    path = Path(tempfile.mkdtemp()) / "pumps.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["pump", "kind", "age", "temperature", "vibration", "failed_within_a_week"])
        for pump in range(300):
            warm, shaken, age = random.normal(65, 15), random.gamma(3, 3), int(random.integers(0, 240))
            failed = warm / 25 + shaken / 4 + age / 80 + random.normal(0, 0.5) > 7
            table.writerow([pump, 1 + pump % 3, age, f"{warm:.1f}", f"{shaken:.2f}", "yes" if failed else "no"])
    return path
