"""`--observe`: runs on this machine and on a coordinator, written where the user points."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP
from tests.deployment.in_process import Coordinator
from tests.deployment.raw_node import Draft, RawNode

pytest.importorskip("tensorboard")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Told = tuple[int, str, str]


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """Where the operator's commands find it."""
    with Coordinator(tmp_path / "home" / "coordinator") as served:
        yield served


def answering(coordinator: Coordinator, home: Path, stack: ExitStack, names: tuple[str, ...]) -> None:
    """Have nodes of these names answer everything until the stack is left."""
    over, threads = threading.Event(), []
    for name in names:
        node = stack.enter_context(closing(RawNode(coordinator.invite(name), home / name)))
        node.client._give_up_s = None

        def play(node: RawNode = node) -> None:
            while not over.is_set():
                ask = node.poll(0.1)
                if ask is not None:
                    node.answer(ask, Draft.file)

        threads.append(threading.Thread(target=play))
        threads[-1].start()

    def end() -> None:
        over.set()
        for thread in threads:
            thread.join()

    stack.callback(end)


def steps(folder: Path, tag: str) -> list[int]:
    """The rounds that the event files of the one run in a folder hold."""
    (run,) = folder.iterdir()
    found = EventAccumulator(str(run))
    found.Reload()
    return [event.step for event in found.Scalars(tag)]


def test_a_simulation_is_written_to_tensorboard(lycia: Callable[..., Told], tmp_path: Path):
    status, _, _ = lycia("simulate", str(APP), "--observe", f"tensorboard:{tmp_path / 'board'}", "--per-node")
    assert status == 0
    assert steps(tmp_path / "board", "evaluate/accuracy") == [1, 2, 3]
    assert steps(tmp_path / "board", "evaluate_by_node/accuracy/node-0") == [1, 2, 3]


@pytest.mark.parametrize("command", ["simulate", "start"])
def test_an_observer_that_is_not_there_is_refused_before_anything_starts(
    command: str, lycia: Callable[..., Told], coordinator: Coordinator
):
    status, _, told = lycia(command, str(APP), "--observe", "tensorbord:x")
    assert status == 1
    assert "there is no observer 'tensorbord:x'" in told
    assert coordinator.client.get("/v1/runs")["runs"] == []


def test_a_run_that_was_over_is_written_whole_by_whoever_watches_it_later(
    lycia: Callable[..., Told], coordinator: Coordinator, tmp_path: Path
):
    with ExitStack() as stack:
        answering(coordinator, tmp_path, stack, ("north", "south"))
        status, out, _ = lycia("start", str(APP), "--watch")
        assert status == 0
        assert "finished: all rounds done" in out
    for _ in range(2):
        status, out, _ = lycia("watch", "latest", "--observe", f"tensorboard:{tmp_path / 'board'}")
        assert status == 0
        assert "finished: all rounds done" in out
    assert steps(tmp_path / "board", "nodes/heard") == [1, 2, 3]


def test_a_watcher_waits_for_a_coordinator_that_is_away(coordinator: Coordinator, tmp_path: Path):
    run = start_run(coordinator.client, load_app(APP))
    command = [sys.executable, "-m", "lycia.cli", "watch", run, "--home", str(coordinator.home)]
    with ExitStack() as stack:
        watcher = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        lines = iter(watcher.stdout.readline, "")
        assert next(lines) == f"run {run}: 3 rounds, 0 nodes\n"
        coordinator.stop()
        assert "the coordinator cannot be reached" in next(lines)
        coordinator.start()
        answering(coordinator, tmp_path, stack, ("north", "south"))
        assert next(lines) == "the coordinator answers again\n"
        *rounds, last = lines
        assert [line.split()[1] for line in rounds] == ["1", "2", "3"]
        assert last == "finished: all rounds done\n"
    assert watcher.returncode == 0
