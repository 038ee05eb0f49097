"""Event files that TensorBoard's own reader reads, written once however often a run is told."""

import sys
from pathlib import Path

import pytest

import lycia
from lycia.observers import TensorBoard
from lycia.runtime.facts import RoundEnded, RunBegan, RunEnded
from tests.deployment.small_app import app
from tests.reports.runs import an_eventful_run

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN = an_eventful_run()


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_a_simulation_is_readable_by_tensorboard(tmp_path: Path):
    result = lycia.simulate(app, observers=[TensorBoard(tmp_path)])
    measured = [(number, pytest.approx(metrics["accuracy"])) for number, metrics in result.metrics()]
    assert points(tmp_path / result.id, "evaluate/accuracy") == measured
    tags = read(tmp_path / result.id).Tags()
    assert {"train/loss", "nodes/heard", "nodes/declined", "norm/median", "bytes/up"} <= set(tags["scalars"])
    assert not any("node-" in tag for tag in tags["scalars"])
    assert "tensorflow" not in sys.modules


def test_the_plan_is_there_as_hyperparameters_and_the_end_as_a_text(tmp_path: Path):
    from tensorboard.plugins.hparams import metadata

    result = lycia.simulate(app, rounds=1, observers=[TensorBoard(tmp_path)])
    found = read(tmp_path / result.id)
    content = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    given = metadata.parse_session_start_info_plugin_data(content).hparams
    assert given["plan.rounds"].number_value == 1
    assert given["plan.selector"].string_value == "Everyone"
    (end,) = found.Tensors("run/end")
    assert end.tensor_proto.string_val[0].decode() == "finished after 1 rounds: all rounds done"


def test_a_run_that_is_resumed_has_each_round_once(tmp_path: Path):
    for until in (2, None):
        result = lycia.simulate(
            app, directory=tmp_path / "run", until_round=until, observers=[TensorBoard(tmp_path / "events")]
        )
    steps = [step for step, _ in points(tmp_path / "events" / result.id, "evaluate/accuracy")]
    assert steps == [1, 2, 3]


def test_a_run_that_is_watched_again_is_not_written_again(tmp_path: Path):
    facts = [RunBegan(RUN.id, 3, 0, 4, ""), *map(RoundEnded, RUN.records), RunEnded("finished", "all done", 3)]
    for seen in (facts[:3], facts, facts):
        board = TensorBoard(tmp_path, per_node=True)
        board.describe(RUN.to_data() | {"records": []})
        for fact in (*seen, facts[-1]):
            board.notice(fact)
    for tag in ("evaluate/accuracy", "evaluate_by_node/accuracy/north"):
        assert [step for step, _ in points(tmp_path / RUN.id, tag)] == [1, 2, 3]
    assert [step for step, _ in points(tmp_path / RUN.id, "alone/accuracy")] == [3]


def test_rounds_of_a_deployed_run_bear_the_time_at_which_they_ended(tmp_path: Path):
    records = [dict(record, ended_s=1.7e9 + place) for place, record in enumerate(RUN.records)]
    board = TensorBoard(tmp_path)
    board.describe(RUN.to_data() | {"records": records, "world": "deployment"})
    for fact in (RunBegan(RUN.id, 3, 3, 4, ""), RunEnded("finished", "all done", 3)):
        board.notice(fact)
    (first, *_) = read(tmp_path / RUN.id).Scalars("evaluate/accuracy")
    assert first.wall_time == pytest.approx(1.7e9)


def test_a_folder_that_cannot_be_written_to_does_not_end_a_run(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.warns(RuntimeWarning, match="TensorBoard c"):
        result = lycia.simulate(app, observers=[TensorBoard(tmp_path / "taken")])
    assert result.state == "finished"
