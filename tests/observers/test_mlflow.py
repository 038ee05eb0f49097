"""A run in a local MLflow store: one MLflow run for one of ours, however often it is told."""

from pathlib import Path
from typing import Any

import pytest

import lycia
from lycia.observers import MLflow
from lycia.observers.mlflow import _name
from lycia.runtime.facts import RoundEnded, RunBegan, RunEnded
from tests.deployment.small_app import app
from tests.reports.runs import an_eventful_run

mlflow = pytest.importorskip("mlflow")
pytestmark = [
    # MLflow's own ways with SQLAlchemy, and its pool of connections.
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RUN = an_eventful_run()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def the_run(uri: str, experiment: str) -> tuple[Any, Any]:
    """MLflow's client, and the one run of the experiment."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    (found,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, found


def points(client: Any, found: Any, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, metric)]


def test_a_simulation_is_a_run_with_metrics_and_parameters(uri: str):
    result = lycia.simulate(app, observers=[MLflow(uri)])
    client, found = the_run(uri, "small")
    measured = [(number, pytest.approx(metrics["accuracy"])) for number, metrics in result.metrics()]
    assert points(client, found, "evaluate/accuracy") == measured
    assert found.info.run_name == result.id
    assert found.info.status == "FINISHED"
    assert found.data.params["plan.rules.least_nodes"] == "2"
    assert found.data.params["plan.server"] == "SGD"
    assert found.data.tags["lycia.state"] == "finished"
    assert found.data.metrics["total/bytes_up"] > 0
    assert not any("node-" in name for name in found.data.metrics)


@pytest.mark.slow
def test_a_run_that_is_resumed_goes_on_in_the_same_run_of_mlflow(uri: str, tmp_path: Path):
    for until, status in ((1, "KILLED"), (None, "FINISHED")):
        lycia.simulate(app, directory=tmp_path / "run", until_round=until, observers=[MLflow(uri, "mine")])
        client, found = the_run(uri, "mine")
        assert found.info.status == status
    assert [step for step, _ in points(client, found, "evaluate/accuracy")] == [1, 2, 3]


@pytest.mark.slow
def test_a_run_that_is_watched_again_is_not_written_again(uri: str):
    facts = [RunBegan(RUN.id, 3, 0, 4, ""), *map(RoundEnded, RUN.records), RunEnded("finished", "all done", 3)]
    for seen in (facts[:3], facts, facts):
        watcher = MLflow(uri, per_node=True)
        watcher.describe(RUN.to_data() | {"records": []})
        ended = facts[-1] if len(seen) > 3 else RunEnded("paused", "too few", 1)
        for fact in (*seen, ended):
            watcher.notice(fact)
    client, found = the_run(uri, "digits")
    for metric in ("evaluate/accuracy", "evaluate_by_node/accuracy/north"):
        assert [step for step, _ in points(client, found, metric)] == [1, 2, 3]
    assert [step for step, _ in points(client, found, "alone/accuracy")] == [3]


def test_a_store_that_is_not_there_does_not_end_a_run(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.warns(RuntimeWarning, match="MLflow c"):
        result = lycia.simulate(app, rounds=1, observers=[MLflow(f"sqlite:///{tmp_path / 'taken' / 'mlflow.db'}")])
    assert result.state == "finished"


@pytest.mark.parametrize(
    ("name", "known_as"),
    [
        ("evaluate/accuracy", "evaluate/accuracy"), ("evaluate/top-5 %", "evaluate/top-5 _"),
        ("evaluate_by_node/x/../../etc", "evaluate_by_node/x/_/_/etc"), ("evaluate//x", "evaluate/_/x"),
        ("evaluate/" + "x" * 300, "evaluate/" + "x" * 241),
    ],
)  # fmt: skip
def test_any_name_becomes_one_that_mlflow_takes(name: str, known_as: str):
    from mlflow.utils.validation import _validate_metric_name

    assert _name(name) == known_as
    _validate_metric_name(_name(name))
