"""What a node remembers, also when the run that it remembers is rolled back."""

from pathlib import Path

import numpy as np
import pytest

from lycia.core.messages import TRAIN, Ask
from lycia.storage.node_state import EARLIER, NodeState


def ask(number: int, task: int, undone: tuple[tuple[int, int], ...] = (), attempt: int = 0) -> Ask:
    return Ask("run", "plan", number, attempt, task, TRAIN, ("ada",), undone=undone)


class Node:
    """A node that remembers which rounds it has worked in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def work(self, asked: Ask) -> list[float]:
        """What it remembered when it began."""
        state = NodeState.at(self.path, asked.undone)
        memory = state.base(asked)
        before = memory["rounds"].tolist() if memory else []
        after = np.array([*before, float(asked.task)])
        state.worked(asked, {"rounds": after}).keep(self.path, earlier=EARLIER)
        return list(before)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """One that remembers nothing yet."""
    return Node(tmp_path / "run.safetensors")


def test_an_undone_round_is_forgotten_and_those_before_it_are_not(node: Node):
    for number in range(5):
        node.work(ask(number, number))
    assert node.work(ask(2, 5, ((2, 5),), attempt=4)) == [0, 1]
    assert node.work(ask(3, 6, ((2, 5),), attempt=4)) == [0, 1, 5]
    assert node.work(ask(3, 6, ((2, 5),), attempt=4)) == [0, 1, 5]  # the same ask again


def test_a_node_that_took_part_in_no_round_since_goes_back_all_the_same(node: Node):
    # Given a node that was asked in rounds 0, 3 and 5, and a run that goes back to round 2
    for number in (0, 3, 5):
        node.work(ask(number, number))
    # When it is next asked in round 6, which is later than all that it knows
    assert node.work(ask(6, 9, ((2, 7),), attempt=4)) == [0]


def test_a_run_that_goes_back_again_and_again_is_followed(node: Node):
    for number in range(4):
        node.work(ask(number, number))
    assert node.work(ask(3, 4, ((3, 4),), 4)) == [0, 1, 2]
    assert node.work(ask(1, 5, ((1, 5),), 8)) == [0]
    assert node.work(ask(2, 6, ((1, 5),), 8)) == [0, 5]
    assert node.work(ask(2, 7, ((1, 5), (2, 7)), 12)) == [0, 5]
    assert node.work(ask(0, 8, ((0, 8),), 16)) == []


def test_of_what_goes_back_too_far_the_oldest_that_is_kept_is_the_beginning(node: Node):
    for number in range(20):
        node.work(ask(number, number))
    kept = sorted(path.name for path in node.path.parent.iterdir())
    assert len(kept) == EARLIER + 1
    assert node.work(ask(20 - EARLIER - 1, 20, ((20 - EARLIER - 1, 20),), 4)) == list(range(20 - EARLIER - 1))
    for number in range(20, 40):
        node.work(ask(number, number + 1))
    assert node.work(ask(1, 50, ((1, 50),), 8)) == node.work(ask(1, 50, ((1, 50),), 8))


def test_a_kill_between_keeping_the_old_and_the_new_changes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch):
    node.work(ask(0, 0))
    with monkeypatch.context() as patched:
        patched.setattr(
            "lycia.storage.node_state.replace_file", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            node.work(ask(1, 1))
    assert node.work(ask(1, 1)) == [0]
    assert node.work(ask(1, 2, ((1, 2),), 4)) == [0]
    assert node.work(ask(0, 3, ((0, 3),), 8)) == []


def test_a_system_without_links_keeps_a_copy(node: Node, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    for number in range(3):
        node.work(ask(number, number))
    assert node.work(ask(1, 3, ((1, 3),), 4)) == [0]
