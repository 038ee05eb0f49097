"""`MLflow`: a run in an MLflow tracking store, local or on a server."""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from lycia.observers.tracking import Ending, Parameters, Series, Tracker

T = TypeVar("T")
_RUN, _ROUND, _END = "lycia.run", "lycia.round", "lycia.end"
_MOST_METRICS, _MOST_PARAMETERS = 1000, 100  # that MLflow takes in one call
_LONGEST_NAME, _LONGEST_VALUE = 250, 6000


class MLflow(Tracker):
    """Writes a run to the tracking store at `uri`, under an experiment; None is what MLflow itself is set to use.

    Sends the records' figures, the plan and the versions there; names of nodes only with `per_node=True`. A run that
    is in the experiment already is gone on with. `experiment` is by default called as the app is.

    Raises: AppError, if MLflow is not installed.
    """

    service = "MLflow"

    def __init__(self, uri: str | None = None, experiment: str | None = None, *, per_node: bool = False) -> None:
        super().__init__("mlflow", per_node=per_node)
        self._uri, self._experiment = uri, experiment

    def open(self, run: str, app: str, parameters: Parameters) -> Series:
        """The run of this name in the experiment, made if it is not there."""
        from mlflow import MlflowClient

        return _StoredRun(MlflowClient(tracking_uri=self._uri), self._experiment or app, run, parameters)


class _StoredRun:
    """One run in a tracking store."""

    def __init__(self, client: Any, experiment: str, run: str, parameters: Parameters) -> None:
        from mlflow.entities import Param

        self._client = client
        known = client.get_experiment_by_name(experiment)
        where = known.experiment_id if known else client.create_experiment(experiment)
        found = next(iter(client.search_runs([where], f"tags.`{_RUN}` = '{run}'", max_results=1)), None)
        found = found or client.create_run(where, run_name=run, tags={_RUN: run})
        self._id, self.there = found.info.run_id, int(found.data.tags.get(_ROUND, 0))
        self._ended = found.data.tags.get(_END)
        named = {_name(name): str(value)[:_LONGEST_VALUE] for name, value in parameters.items()}
        new = [Param(name, value) for name, value in named.items() if name not in found.data.params]
        for some in _pieces(new, _MOST_PARAMETERS):
            client.log_batch(self._id, params=some)
        client.update_run(self._id, status="RUNNING")

    def add(self, number: int, scalars: Mapping[str, float], at_s: float) -> None:
        """The round's numbers, and then that they are there."""
        self._log(scalars, number, at_s, {_ROUND: str(number)})

    def conclude(self, ending: Ending) -> None:
        """The end as tags, its figures as metrics, written once after so many rounds, and the run's status."""
        after = str(ending.rounds)
        tags = {"lycia.state": ending.state, "lycia.reason": ending.reason[:_LONGEST_VALUE], _END: after}
        self._log({} if self._ended == after else ending.figures, ending.rounds, time.time(), tags)
        status = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}.get(ending.state)
        if status:  # a run that pauses goes on
            self._client.set_terminated(self._id, status)

    def _log(self, scalars: Mapping[str, float], number: int, at_s: float, tags: Mapping[str, str]) -> None:
        """All of `scalars`, and with the last of them the tags that say that they are there."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(_name(name), value, int(at_s * 1000), number) for name, value in scalars.items()]
        *most, last = [*_pieces(metrics, _MOST_METRICS)] or [[]]
        for some in most:
            self._client.log_batch(self._id, metrics=some)
        self._client.log_batch(self._id, metrics=last, tags=[RunTag(name, value) for name, value in tags.items()])


def _name(name: str) -> str:
    """A name that MLflow takes: a relative path of letters, digits and a few signs."""
    parts = (re.sub(r"[^\w.\- ]", "_", part) for part in name.split("/"))
    return "/".join(part if part.strip(".") else "_" for part in parts)[:_LONGEST_NAME]


def _pieces(items: Sequence[T], most: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, most)):
        yield some
