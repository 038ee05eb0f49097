"""How many updates become one."""

from lycia.aggregators.mean import ExampleWeightedMean, UniformMean

__all__ = ["ExampleWeightedMean", "UniformMean"]
