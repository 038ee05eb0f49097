"""Observers that write a run's figures where a team looks at them: TensorBoard, MLflow, Weights & Biases.

They take the facts that the loop tells every observer, so they watch a simulation and a deployed run alike, the latter
from the operator's side. What they send is what the rounds' records hold: figures and, only with `per_node=True`, the
names of nodes. It goes where you point them, and nowhere else. No observer ends a run: where a service fails, it says
so once, and training goes on.
"""

from lycia.observers.choosing import observer_of
from lycia.observers.mlflow import MLflow
from lycia.observers.tensorboard import TensorBoard
from lycia.observers.tracking import Tracker
from lycia.observers.wandb import WandB

__all__ = ["MLflow", "TensorBoard", "Tracker", "WandB", "observer_of"]
