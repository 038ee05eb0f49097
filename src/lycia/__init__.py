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
    from lycia.reports.holdings import Holdings
    from lycia.selection import Everyone, Poisson, SizeWeighted, Uniform
    from lycia.simulation import Faults, Pace, Result, simulate
    from lycia.trainers import NumpyTrainer, SklearnTrainer, load_model
    from lycia.trainers.local import CosineDecay, ExponentialDecay, LinearDecay, LocalAdam, StepDecay
    from lycia.trainers.torch import LightningTrainer, TorchTrainer
else:
    from lycia.face import __dir__ as __dir__
    from lycia.face import __getattr__ as __getattr__

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "App",
    "Buffered",
    "Column",
    "CosineDecay",
    "Evaluation",
    "Everyone",
    "ExampleWeightedMean",
    "Examples",
    "ExponentialDecay",
    "Faults",
    "FedAvg",
    "FedProx",
    "Holdings",
    "Key",
    "LightningTrainer",
    "LinearDecay",
    "LocalAdam",
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
    "StepDecay",
    "Stop",
    "Synchronous",
    "TorchTrainer",
    "Uniform",
    "UniformMean",
    "Yogi",
    "load_model",
    "simulate",
]
