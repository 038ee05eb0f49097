"""`TensorBoard`: a run as event files, which `tensorboard --logdir` shows. Needs neither torch nor TensorFlow."""

import time
from collections.abc import Mapping
from pathlib import Path

from lycia.observers.scalars import ATTEMPTS
from lycia.observers.tracking import Ending, Parameters, Series, Tracker


class TensorBoard(Tracker):
    """Writes a run into `directory/RUN`, one series for each of a round's numbers, and its plan as hyperparameters.

    What is written stays in that folder. Names of nodes are in it only with `per_node=True`.

    Raises: AppError, if TensorBoard is not installed.
    """

    service = "TensorBoard"

    def __init__(self, directory: str | Path = "runs", *, per_node: bool = False) -> None:
        super().__init__("tensorboard", per_node=per_node)
        self._directory = Path(directory)

    def open(self, run: str, app: str, parameters: Parameters) -> Series:
        """The run's folder, a new one or one that it was written to before."""
        return _EventFiles(self._directory / run, parameters)


class _EventFiles:
    """The event files of one run: a new one beside those that are there."""

    def __init__(self, folder: Path, parameters: Parameters) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        steps = _steps(folder)
        self.there, self._said = max(steps.get(ATTEMPTS, {0})), steps
        self._writer = EventFileWriter(str(folder))
        if not steps:
            self._write(hparams_pb(dict(parameters), trial_id=str(parameters["run"])), 0)

    def add(self, number: int, scalars: Mapping[str, float], at_s: float) -> None:
        """One event with all numbers of the round, on the disk when it returns."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()]
        self._write(Summary(value=values), number, at_s)

    def conclude(self, ending: Ending) -> None:
        """The end as a text, and each of its figures that is not there for that round yet."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING
        from tensorboard.plugins.text.metadata import create_summary_metadata

        tag, told = "run/end", f"{ending.state} after {ending.rounds} rounds: {ending.reason}"
        text = TensorProto(dtype=DT_STRING, string_val=[told.encode()])
        values = [Summary.Value(tag=tag, tensor=text, metadata=create_summary_metadata(tag, ""))]
        for name, value in ending.figures.items():
            if ending.rounds not in self._said.get(name, ()):
                values.append(Summary.Value(tag=name, simple_value=value))
        self._write(Summary(value=values), ending.rounds)
        self._writer.close()

    def _write(self, summary: object, step: int, at_s: float | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time.time() if at_s is None else at_s, step=step, summary=summary))
        self._writer.flush()


def _steps(folder: Path) -> dict[str, set[int]]:
    """Series → the steps that the folder's event files hold of it."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    steps: dict[str, set[int]] = {}
    for path in sorted(folder.glob("*tfevents*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                steps.setdefault(value.tag, set()).add(event.step)
    return steps
