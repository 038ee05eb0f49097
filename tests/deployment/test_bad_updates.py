"""Nodes that send what they should not: quarantined by name, and the run goes on as if they were not there."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lycia.core import tensorfile
from lycia.core.keys import Key
from lycia.core.layout import Layout
from lycia.core.tensorfile import Tensor
from lycia.deployment.local import Federation
from lycia.deployment.operator import download_model, follow
from lycia.deployment.starting import start_run
from lycia.runtime.apps import load_app
from tests.deployment.conftest import APP
from tests.deployment.raw_node import Draft, Forge, RawNode, with_tensors


def _first_as(dtype: type) -> Forge:
    return lambda draft: with_tensors(draft.file(), lambda _, tensor: Tensor.of(tensor.array().astype(dtype)))


def _replayed(draft: Draft) -> bytes:
    return replace(draft, ask=draft.ask.model_copy(update={"task": draft.ask.task + 7})).file()


BAD: dict[str, tuple[Forge, str]] = {
    "nan": (lambda draft: draft.file(place=3, value=np.nan), "NaN"),
    "infinite": (lambda draft: draft.file(place=3, value=np.inf), "infinity"),
    "misshapen": (lambda draft: with_tensors(draft.file(), lambda *_: Tensor.of(np.zeros(3, np.float32))), "shape"),
    "other-dtype": (_first_as(np.float64), "dtype"),
    "negative": (lambda draft: draft.file(weight=-90.0), "negative weight"),
    "heavy": (lambda draft: draft.file(weight=1e18), "above the cap"),
    "weightless": (lambda draft: draft.file(weight=np.nan), "weight of nan"),
    "unsaid": (lambda draft: tensorfile.to_bytes({"other": Tensor.of(draft.delta)}, {}), "does not say"),
    "garbage": (lambda _: b"these are not tensors at all", "not a sound safetensors file"),
    "cut-off": (lambda draft: draft.file()[:-5], "not a sound safetensors file"),
    "replayed": (_replayed, "was made for"),
}


def play(node: RawNode, forge: Forge, over: threading.Event) -> None:
    """Answer whatever is asked until the run is over."""
    while not over.is_set():
        ask = node.poll(0.5)
        if ask is not None:
            node.answer(ask, forge)


@pytest.fixture
def records(federation: Federation, raw_node: Callable[[str], RawNode]) -> list[dict]:
    """The records of a run with three honest nodes, one that sends zeros, and one of each kind of bad ones."""
    cast: dict[str, Forge] = dict.fromkeys(("honest-1", "honest-2", "honest-3"), Draft.file)
    cast |= {"zero": lambda draft: draft.file(scale=0.0)} | {name: forge for name, (forge, _) in BAD.items()}
    nodes = {name: raw_node(name) for name in cast}
    over = threading.Event()
    threads = [threading.Thread(target=play, args=(nodes[name], forge, over)) for name, forge in cast.items()]
    for thread in threads:
        thread.start()
    federation.wait_nodes(len(cast))
    app = load_app(APP)
    run = start_run(federation.client, app)
    follow(federation.client, run, [])
    over.set()
    for thread in threads:
        thread.join()
    facts = federation.client.get(f"/v1/runs/{run}")
    assert facts["state"] == "finished"
    return [record for record in facts["records"] if record["purpose"] == "train"]


def test_bad_updates_are_quarantined_by_name_and_never_end_the_run(records: list[dict]):
    assert len(records) == load_app(APP).plan.rounds
    for record in records:
        quarantined = {drop["node"]: drop["reason"] for drop in record["dropped"] if drop["kind"] == "quarantined"}
        assert quarantined.keys() == BAD.keys()
        for name, (_, reason) in BAD.items():
            assert reason in quarantined[name]
        # The zero update counts: a node that learned nothing is not a bad node.
        assert record["survivors"] == ["honest-1", "honest-2", "honest-3", "zero"]


def test_bad_updates_leave_the_model_as_it_would_be_without_them(
    records: list[dict], federation: Federation, tmp_path: Path
):
    run = federation.client.get("/v1/runs")["runs"][0]["id"]
    target = download_model(federation.client, run, tmp_path / "model")
    layout = Layout.from_json(tensorfile.read(target.read_bytes())[1]["lycia.layout"])
    first = load_app(APP).trainer.first_model(load_app(APP).schema, Key(0))[1]
    tensors, _ = tensorfile.read(target.read_bytes())
    trained = np.concatenate([tensors[leaf.name].array().reshape(-1) for leaf, _ in layout.places("trained")])
    # Three nodes of four moved every parameter by 0.01, three rounds long.
    assert trained == pytest.approx(first.trained + 3 * 0.75 * 0.01, abs=1e-6)
