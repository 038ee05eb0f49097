"""A run in an offline folder of Weights & Biases, read back from the file that `wandb sync` would send."""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lycia
from lycia.observers import WandB
from lycia.runtime.facts import RoundEnded, RunBegan, RunEnded
from tests.deployment.small_app import app
from tests.reports.runs import an_eventful_run

wandb = pytest.importorskip("wandb")

RUN = an_eventful_run()
_HEADER, _BLOCK = 7, 32768


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)


def pieces(data: bytes) -> Iterator[bytes]:
    """The entries of a file of W&B: a LevelDB log with a header of its own."""
    at, whole = _HEADER, b""
    while at + _HEADER <= len(data):
        if _BLOCK - at % _BLOCK < _HEADER:
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
        if kind in (1, 4):  # the only piece of an entry, or its last
            yield whole
            whole = b""


def records(folder: Path) -> list[Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("*.wandb")
    found = []
    for piece in pieces(path.read_bytes()):
        record = Record()
        record.ParseFromString(piece)
        found.append(record)
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    """Each step's figures."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


def offline_folders(directory: Path) -> list[Path]:
    wandb.teardown()  # its own process writes to the disk a little after a run has ended
    return sorted((directory / "wandb").glob("offline-run-*"))


def test_a_simulation_is_an_offline_run_with_its_history(tmp_path: Path):
    result = lycia.simulate(app, observers=[WandB("mine", directory=tmp_path)])
    (folder,) = offline_folders(tmp_path)
    assert folder.name.endswith(result.id)
    rows = history(folder)
    assert [row["_step"] for row in rows] == [1, 2, 3]
    measured = [metrics["accuracy"] for _, metrics in result.metrics()]
    assert [row["evaluate/accuracy"] for row in rows] == pytest.approx(measured)
    (run,) = (record.run for record in records(folder) if record.WhichOneof("record_type") == "run")
    assert (run.project, run.run_id) == ("mine", result.id)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["plan.rounds"] == 3


def test_nothing_of_the_machine_is_in_it(tmp_path: Path):
    lycia.simulate(app, rounds=1, observers=[WandB(directory=tmp_path)])
    (folder,) = offline_folders(tmp_path)
    kinds = {record.WhichOneof("record_type") for record in records(folder)}
    assert not kinds & {"stats", "output", "output_raw", "environment"}
    assert not any((folder / "files").glob("*"))
    (path,) = folder.glob("*.wandb")
    assert b"node-0" not in path.read_bytes()
    assert sys.executable.encode() not in path.read_bytes()
    assert str(Path.cwd()).encode() not in path.read_bytes()


def test_each_watcher_leaves_the_whole_run(tmp_path: Path):
    facts = [RunBegan(RUN.id, 3, 0, 4, ""), *map(RoundEnded, RUN.records), RunEnded("finished", "all done", 3)]
    for place in range(2):
        watcher = WandB(directory=tmp_path / str(place), per_node=True)
        watcher.describe(RUN.to_data())
        for fact in (*facts, *facts[:-1]):
            watcher.notice(fact)
        (folder,) = offline_folders(tmp_path / str(place))
        rows = history(folder)
        assert [row["_step"] for row in rows] == [1, 2, 3]
        assert rows[0]["evaluate_by_node/accuracy/north"] == 0.6


def test_a_mode_that_is_none_is_refused_in_words(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(lycia.LyciaError, match="there is no W&B mode 'dryrun'"):
        WandB()


def test_the_environments_mode_is_obeyed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    lycia.simulate(app, rounds=1, observers=[WandB(directory=tmp_path)])
    assert offline_folders(tmp_path) == []
