"""`observer_of`: an observer from a word, as the command line names it."""

from lycia.errors import AppError
from lycia.observers.mlflow import MLflow
from lycia.observers.tensorboard import TensorBoard
from lycia.observers.tracking import Tracker
from lycia.observers.wandb import WandB


def observer_of(text: str, *, per_node: bool = False) -> Tracker:
    """The observer that `tensorboard:DIR`, `mlflow:URI` or `wandb:PROJECT` names; each works without its second half.

    Raises: AppError, if there is no such observer, or its extra is not installed.
    """
    service, _, where = text.partition(":")
    match service:
        case "tensorboard":
            return TensorBoard(where or "runs", per_node=per_node)
        case "mlflow":
            return MLflow(where or None, per_node=per_node)
        case "wandb":
            return WandB(where or None, per_node=per_node)
    raise AppError(
        f"there is no observer {text!r}.",
        why="a run can be written to TensorBoard, MLflow, or Weights & Biases.",
        do="use tensorboard:DIR, mlflow:URI or wandb:PROJECT.",
    )
