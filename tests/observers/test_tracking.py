"""What every tracking service is spared: rounds told twice, rounds out of order, and runs that end of its failures."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import lycia
from lycia.core.training import LocalResult, LocalTask
from lycia.observers import Tracker, observer_of
from lycia.observers.tracking import Ending, Parameters
from lycia.runtime.facts import Fact, RoundEnded, RunBegan, RunEnded
from tests.deployment.small_app import app
from tests.reports.runs import an_eventful_run

RUN = an_eventful_run()
BEGAN, ENDED = RunBegan(RUN.id, 3, 0, 4, "accuracy"), RunEnded("finished", "all rounds done", 3)
ROUNDS = [RoundEnded(record) for record in RUN.records]


class Service(Tracker):
    """A service in this process. `failures`: so many calls raise before one works; `held`: calls wait for it."""

    service = "Service"

    def __init__(self, failures: int = 0, held: threading.Event | None = None) -> None:
        super().__init__("json", per_node=False)  # a package that is always there
        self.failures, self.held = failures, held
        self.parameters: Parameters = {}
        self.rounds: dict[int, Mapping[str, float]] = {}
        self.written: list[int] = []
        self.endings: list[Ending] = []
        self.opened: list[str] = []
        self.warnings: list[str] = []
        self.warn = self.warnings.append

    def open(self, run: str, app: str, parameters: Parameters) -> "Stored":
        self.fail()
        self.opened.append(run)
        self.parameters = parameters
        return Stored(self)

    def fail(self) -> None:
        if self.held:
            self.held.wait(30)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("nobody is at home")


class Stored:
    def __init__(self, service: Service) -> None:
        self._service, self.there = service, max(service.rounds, default=0)

    def add(self, number: int, scalars: Mapping[str, float], at_s: float) -> None:
        self._service.fail()
        self._service.rounds[number] = scalars
        self._service.written.append(number)

    def conclude(self, ending: Ending) -> None:
        self._service.fail()
        self._service.endings.append(ending)


def tell(tracker: Tracker, *facts: Fact) -> None:
    for fact in facts:
        tracker.notice(fact)


def test_a_run_is_written_round_by_round_to_its_end():
    service = Service()
    service.describe(RUN.to_data())
    tell(service, BEGAN, *ROUNDS, ENDED)
    assert service.written == [1, 2, 3]
    assert service.parameters["plan.rounds"] == 3
    (ending,) = service.endings
    assert (ending.state, ending.rounds) == ("finished", 3)
    assert ending.figures["alone/accuracy"] > 0
    assert ending.figures["total/bytes_up"] == RUN.summary()["bytes_up"]
    assert ending.figures["total/seconds"] == pytest.approx(
        sum(record["wall_s"] for record in RUN.to_data()["records"])
    )
    assert service.warnings == []


def test_rounds_that_are_told_twice_are_written_once():
    service = Service()
    tell(service, BEGAN, *ROUNDS[:2], *ROUNDS, *ROUNDS, BEGAN, ENDED)
    assert service.written == [1, 2, 3]


def test_a_second_watcher_of_a_run_adds_what_is_missing():
    first = Service()
    tell(first, BEGAN, ROUNDS[0])
    second = Service()
    tell(first, RunEnded("stopped", "so", 1))
    second.rounds = dict(first.rounds)
    tell(second, BEGAN, *ROUNDS, ENDED)
    assert second.written == [2, 3]


def test_a_run_that_goes_on_after_a_pause_is_opened_again():
    service = Service()
    tell(service, BEGAN, *ROUNDS[:1], RunEnded("paused", "too few", 1), *ROUNDS[1:], ENDED)
    assert service.written == [1, 2, 3]
    assert [ending.state for ending in service.endings] == ["paused", "finished"]


def test_rounds_before_the_watcher_came_are_written_too():
    service = Service()
    service.describe(RUN.to_data())
    tell(service, RunBegan(RUN.id, 3, 3, 4, ""), ENDED)
    assert service.written == [1, 2, 3]


def test_one_observer_may_watch_one_run_after_the_other():
    service = Service()
    service.describe(RUN.to_data())
    tell(service, BEGAN, *ROUNDS, ENDED)
    service.rounds.clear()
    tell(service, RunBegan("other-1", 3, 0, 4, ""), *ROUNDS, ENDED)
    assert service.opened == [RUN.id, "other-1"]
    assert service.written == [1, 2, 3] * 2
    assert service.parameters == {"run": "other-1"}  # nobody described it


def test_a_service_that_fails_for_a_while_is_warned_of_once_and_misses_nothing():
    service = Service(failures=2)
    tell(service, BEGAN, *ROUNDS, ENDED)
    assert service.written == [1, 2, 3]
    assert len(service.endings) == 1
    assert all("Service cannot be written to (ConnectionError: nobody is at home)" in told for told in service.warnings)
    assert len(service.warnings) <= 1


def test_a_service_that_is_down_never_ends_a_run():
    service = Service(failures=10**6)
    result = lycia.simulate(app, observers=[service])
    assert result.state == "finished"
    assert service.written == []
    *_, last = service.warnings
    assert "could not be written to before the run ended (ConnectionError: nobody is at home)" in last
    assert "of its entries are missing there" in last
    assert len(service.warnings) <= 2  # once while it runs


def test_what_a_service_missed_is_written_when_the_run_is_told_again():
    service = Service(failures=10**6)
    tell(service, BEGAN, *ROUNDS, ENDED)
    service.failures = 0
    tell(service, BEGAN, *ROUNDS, ENDED)
    assert service.written == [1, 2, 3]
    assert service.endings[-1].figures["total/bytes_up"] == RUN.summary()["bytes_up"]


def test_a_slow_service_is_waited_for_at_the_end_only():
    held = threading.Event()
    service = Service(held=held)
    tell(service, BEGAN, *ROUNDS)  # returns although nothing can be written
    assert service.written == []
    held.set()
    service.notice(ENDED)
    assert service.written == [1, 2, 3]


def test_a_simulation_that_breaks_off_leaves_no_thread_and_is_gone_on_with(tmp_path: Path):
    class Broken(lycia.NumpyTrainer):
        def train(self, task: LocalTask) -> LocalResult:
            if task.round:
                raise MemoryError("a patient's value")
            return super().train(task)

    before, service = threading.active_count(), Service()
    with pytest.raises(MemoryError):
        lycia.simulate(replace(app, trainer=Broken()), directory=tmp_path / "run", observers=[service])
    assert threading.active_count() == before
    assert service.written == [1]
    assert [(ending.state, ending.reason, ending.rounds) for ending in service.endings] == [
        ("failed", "MemoryError", 1)
    ]
    lycia.simulate(replace(app, trainer=lycia.NumpyTrainer()), directory=tmp_path / "run", observers=[service])
    assert service.written == [1, 2, 3]
    assert threading.active_count() == before


def test_a_simulation_tells_its_observers_what_it_is():
    service = Service()
    result = lycia.simulate(app, rounds=2, observers=[service])
    assert service.opened == [result.id]
    assert service.parameters["app"] == "small"
    assert service.parameters["plan.rounds"] == 2
    assert service.rounds[2]["evaluate/accuracy"] == result.metrics()[-1][1]["accuracy"]


def test_a_resumed_simulation_tells_of_the_rounds_before(tmp_path: Path):
    lycia.simulate(app, directory=tmp_path / "run", until_round=1)
    service = Service()
    lycia.simulate(app, directory=tmp_path / "run", observers=[service])
    assert service.written == [1, 2, 3]


@pytest.mark.parametrize("text", ["", "tensorflow:x", "Tensorboard:x", ":"])
def test_an_observer_that_is_not_there_is_refused_in_words(text: str):
    with pytest.raises(lycia.LyciaError, match="there is no observer"):
        observer_of(text)


def test_a_service_that_is_not_installed_says_what_to_install():
    class Missing(Service):
        def __init__(self) -> None:
            Tracker.__init__(self, "no_such_package", per_node=False)

    with pytest.raises(lycia.LyciaError, match=r"pip install 'lycia\[no_such_package\]'"):
        Missing()
