"""What nodes hold: examples, populations, schemas, partitions, and data to try things on."""

from lycia.data.datasets import DIGITS, HEART_DISEASE, digits, heart_disease
from lycia.data.partition import by_label_shards, by_label_skew, evenly, hold_out
from lycia.data.population import Examples, Population, as_population, load_node_data
from lycia.data.schema import Column, Schema, check_data

__all__ = [
    "DIGITS",
    "HEART_DISEASE",
    "Column",
    "Examples",
    "Population",
    "Schema",
    "as_population",
    "by_label_shards",
    "by_label_skew",
    "check_data",
    "digits",
    "evenly",
    "heart_disease",
    "hold_out",
    "load_node_data",
]
