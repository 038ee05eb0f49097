"""What nodes hold: examples, tables, populations, schemas, partitions, and data to try things on."""

from lycia.data.datasets import DIGITS, HEART_DISEASE, digits, heart_disease
from lycia.data.partition import (
    by_feature,
    by_key,
    by_label_shards,
    by_label_skew,
    by_size_skew,
    evenly,
    hold_out,
    population_of,
    with_noise,
)
from lycia.data.population import Examples, Population, as_population, load_node_data
from lycia.data.schema import Column, Schema, check_data
from lycia.data.tables import examples_of, node_data_of

__all__ = [
    "DIGITS",
    "HEART_DISEASE",
    "Column",
    "Examples",
    "Population",
    "Schema",
    "as_population",
    "by_feature",
    "by_key",
    "by_label_shards",
    "by_label_skew",
    "by_size_skew",
    "check_data",
    "digits",
    "evenly",
    "examples_of",
    "heart_disease",
    "hold_out",
    "load_node_data",
    "node_data_of",
    "population_of",
    "with_noise",
]
