"""Federated learning: train one model over data that cannot move."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # so that editors and type checkers know the names, which are imported when they are used
    from lycia.aggregators import ExampleWeightedMean, UniformMean
    from lycia.algorithms import SGD, Adagrad, Adam, FedAvg, FedProx, Yogi
    from lycia.core.keys import Key
    from lycia.core.plan import App, Buffered, Evaluation, Normalisation, Plan, RoundRules, Stop, Synchronous
    from lycia.core.training import NodeData
    from lycia.data import Column, Examples, Population, Schema
    from lycia.errors import LyciaError
    from lycia.selection import Everyone, Poisson, SizeWeighted, Uniform
    from lycia.simulation import Faults, Pace, Result, simulate
    from lycia.trainers import NumpyTrainer, SklearnTrainer, load_model
else:
    from lycia.face import __dir__, __getattr__

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "App",
    "Buffered",
    "Column",
    "Evaluation",
    "Everyone",
    "ExampleWeightedMean",
    "Examples",
    "Faults",
    "FedAvg",
    "FedProx",
    "Key",
    "LyciaError",
    "NodeData",
    "Normalisation",
    "NumpyTrainer",
    "Pace",
    "Plan",
    "Poisson",
    "Population",
    "Result",
    "RoundRules",
    "Schema",
    "SizeWeighted",
    "SklearnTrainer",
    "Stop",
    "Synchronous",
    "Uniform",
    "UniformMean",
    "Yogi",
    "load_model",
    "simulate",
]
