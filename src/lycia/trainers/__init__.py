"""Models and their local training. Each framework has one room; none is imported before it is used."""

from lycia.trainers.checkpoints import load_model
from lycia.trainers.numpy import NumpyTrainer
from lycia.trainers.sklearn import SklearnTrainer

__all__ = ["NumpyTrainer", "SklearnTrainer", "load_model"]
