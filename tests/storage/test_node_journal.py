"""What a node has finished and not delivered: there whole after a kill, or not finished; never something else."""

from pathlib import Path

import pytest

from lycia.errors import StorageError
from lycia.storage.node_journal import Finished, NodeJournal
from tests.storage.killing import Killed, Killer

WORK = Finished({"run": "a-run", "task": 7, "deadline_s": float("inf")}, {"update": "spool/a-run-7.safetensors"})
OTHER = Finished({"run": "a-run", "task": 8}, {"update": "spool/a-run-8.safetensors"})


@pytest.fixture
def journal(tmp_path: Path) -> NodeJournal:
    return NodeJournal(tmp_path / "finished")


def test_what_was_finished_is_found_until_it_is_delivered_the_oldest_first(journal: NodeJournal, tmp_path: Path):
    journal.finished("a-run", 8, OTHER)
    journal.finished("a-run", 7, WORK)
    again = NodeJournal(tmp_path / "finished")
    assert list(again.undelivered()) == [OTHER, WORK]
    assert (again.find("a-run", 7), again.find("a-run", 9), again.find("b-run", 7)) == (WORK, None, None)
    again.delivered("a-run", 8)
    again.delivered("a-run", 8)
    assert list(journal.undelivered()) == [WORK]


def test_after_a_kill_at_any_moment_it_is_there_whole_or_not_at_all(tmp_path: Path):
    last, acknowledged = 0, False
    while not acknowledged:
        journal = NodeJournal(tmp_path / str(last))
        try:
            with Killer(last).watching():
                journal.finished("a-run", 7, WORK)
                acknowledged = True
        except Killed:
            pass
        found = NodeJournal(tmp_path / str(last)).find("a-run", 7)
        assert found == WORK or (found is None and not acknowledged)
        last += 1
    assert last > 4


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe not text", b"[]", b"7", b"null", b"[" * 5000, b'{"ask": {}}', b'{"ask": {}, "said": {}}',
        b'{"ask": [], "said": {"update": "x"}}', b'{"ask": {}, "said": {"update": 7}}', b'{"ask": {}, "said": []}',
        b'{"ask": {}, "said": {"update": "x"}, "more": 1}',
    ],
)  # fmt: skip
def test_what_was_damaged_is_as_if_it_had_never_been_finished(content: bytes, journal: NodeJournal, tmp_path: Path):
    journal.finished("a-run", 8, OTHER)
    (tmp_path / "finished" / "a-run-7.json").write_bytes(content)
    assert journal.find("a-run", 7) is None
    assert list(journal.undelivered()) == [OTHER]
    journal.finished("a-run", 7, WORK)
    assert journal.find("a-run", 7) == WORK


def test_a_folder_that_cannot_be_used_is_told_in_words(tmp_path: Path):
    (tmp_path / "finished").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used"):
        NodeJournal(tmp_path / "finished")
