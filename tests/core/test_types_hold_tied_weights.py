"""Tied weights and narrow storage fit the types: one leaf with aliases, and bytes that are the model's own."""

from dataclasses import replace

import numpy as np
import pytest

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core import tensorfile
from lycia.core.layout import Layout, Leaf, Model, narrow, read_checkpoint, read_model, widen
from lycia.core.messages import Updates
from lycia.core.parts import Arrays, NodeView, Stage
from lycia.core.plan import Evaluation, Plan
from lycia.errors import LayoutError
from lycia.selection import Everyone
from lycia.testing import Federation, Fuse, Killed, Quadratic, QuadraticTrainer, digest_of

TIED = Layout((Leaf("embedding", (2, 3), aliases=("decoder.weight",)), Leaf("bias", (2,))))
EMBEDDING = np.arange(6, dtype=np.float32).reshape(2, 3)
BIAS = np.float32([7, 8])
NODES = {
    "athens": Quadratic.at(np.linspace(0.1, 0.8, 8).tolist()),
    "delphi": Quadratic.at(np.linspace(-3, 4, 8).tolist()),
}


def federation(layout: Layout, rounds: int = 3, stages: tuple[Stage, ...] = (), **fleet) -> Federation:
    plan = Plan(
        rounds=rounds, selector=Everyone(), client=FedAvg(), aggregator=UniformMean(), server=SGD(), stages=stages,
        evaluation=Evaluation(evaluators=False),
    )  # fmt: skip
    return Federation(plan, QuadraticTrainer(8, layout=layout), NODES, **fleet)


def stored(dtype: str) -> Layout:
    return Layout((Leaf("a", (3,), dtype), Leaf("b", (5,), dtype)))


def test_a_tied_tensor_is_trained_once_and_comes_out_under_each_of_its_names():
    model = TIED.model({"embedding": EMBEDDING, "bias": BIAS})
    arrays = TIED.arrays(model)
    assert TIED.size("trained") == 8
    assert list(arrays) == ["embedding", "decoder.weight", "bias"]
    assert arrays["decoder.weight"] is arrays["embedding"]


def test_a_node_that_hands_in_both_names_hands_in_one_tensor():
    both = {"embedding": EMBEDDING, "decoder.weight": EMBEDDING, "bias": BIAS}
    assert TIED.model(both).trained.tolist() == [*range(6), 7, 8]


def test_one_gradient_moves_all_of_its_names():
    held = federation(TIED)
    held.hold()
    arrays = held.run.layout.arrays(held.model)
    assert arrays["decoder.weight"].tobytes() == arrays["embedding"].tobytes()
    assert (arrays["embedding"] != 0).all()
    assert all(reply.delta.shape == (1, 8) for reply in held.fleet.received if isinstance(reply, Updates))


def test_a_checkpoint_holds_a_tied_tensor_once_and_its_aliases_in_the_header():
    model = TIED.model({"embedding": EMBEDDING, "bias": BIAS})
    file = b"".join(TIED.file(model, {"run": "one"}))
    tensors, _ = tensorfile.read(file)
    layout, again, metadata = read_checkpoint(file)
    assert list(tensors) == ["embedding", "bias"]
    assert layout == TIED
    assert metadata == {"run": "one"}
    assert digest_of(again) == digest_of(model)
    assert list(layout.arrays(again)) == ["embedding", "decoder.weight", "bias"]


def test_an_alias_that_is_taken_is_refused():
    with pytest.raises(LayoutError, match="bias"):
        Layout((Leaf("embedding", (2,), aliases=("bias",)), Leaf("bias", (2,))))


@pytest.mark.parametrize(("dtype", "bytes_each"), [("bfloat16", 2), ("float16", 2), ("float32", 4), ("float64", 8)])
def test_a_model_takes_the_bytes_of_its_storage_dtype(dtype: str, bytes_each: int):
    layout = stored(dtype)
    model = Model(np.linspace(-1, 1, 8).astype(np.float32))
    tensors = layout.tensors(model)
    assert [tensor.data.nbytes for tensor in tensors.values()] == [3 * bytes_each, 5 * bytes_each]
    assert read_model(layout, tensors).trained.tobytes() == layout.as_sent(model).trained.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_a_file_can_hold_comes_back_as_the_same_bytes(dtype: str):
    layout = stored(dtype)
    patterns = np.arange(0, 65536, 7, dtype=np.uint16)
    values = widen(patterns, "bfloat16") if dtype == "bfloat16" else patterns.view(np.float16).astype(np.float32)
    values = values[np.isfinite(values)][:8000].reshape(-1, 8)
    for row in values:
        sent = layout.as_sent(Model(row)).trained
        assert sent.tobytes() == row.tobytes()
        assert layout.as_sent(Model(sent)).trained.tobytes() == sent.tobytes()


def test_bfloat16_rounds_to_nearest_even():
    halfway = np.uint32([0x3F808000, 0x3F818000, 0x3F808001]).view(np.float32)
    assert narrow(halfway, "bfloat16").tolist() == [0x3F80, 0x3F82, 0x3F81]
    special = np.float32([np.inf, -np.inf, np.nan, -0.0, 3.4e38])
    assert narrow(special, "bfloat16").tolist() == [0x7F80, 0xFF80, 0x7FC0, 0x8000, 0x7F80]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_simulated_node_sees_and_sends_what_a_wire_would_carry(dtype: str):
    held = federation(stored(dtype))
    held.hold()
    for ask in held.fleet.sent:
        if ask.model is not None:
            again = read_model(held.run.layout, held.run.layout.tensors(ask.model))
            assert again.trained.tobytes() == ask.model.trained.tobytes()
    for reply in held.fleet.received:
        if isinstance(reply, Updates):
            carried = widen(narrow(reply.delta, dtype), dtype).astype(np.float32)
            assert carried.tobytes() == reply.delta.tobytes()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_server_adds_small_updates_up_in_float32_before_they_are_stored(dtype: str):
    # A bfloat16 of 1 and more moves in steps of 1/128: added up in bfloat16, steps of 1/1000 would all be lost.
    layout = stored(dtype)
    held = federation(layout, rounds=20)
    held.fleet.trainer = replace(held.fleet.trainer, steps=1, learning_rate=1e-3)
    held.start = replace(held.start, model=Model(np.full(8, 8.0, np.float32)))
    held.hold()
    assert (held.model.trained < 7.95).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_restart_loses_none_of_the_bits_that_storage_cannot_hold(dtype: str):
    whole = federation(stored(dtype))
    whole.hold()
    for moment in range(2, whole.fuse.count, 9):
        held = federation(stored(dtype), fuse=Fuse(moment))
        with pytest.raises(Killed):
            held.hold()
        held.restart()
        held.hold()
        assert digest_of(held.model) == digest_of(whole.model)


def test_a_float16_update_that_overflows_is_quarantined():
    held = federation(stored("float16"), rounds=1)
    held.fleet.nodes["delphi"] = Quadratic.at([1e6] * 8)
    held.hold()
    assert held.records[0]["survivors"] == ["athens"]
    assert [drop["reason"] for drop in held.records[0]["dropped"]] == ["its delta holds a NaN or an infinity"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_a_stage_makes_of_an_update_is_rounded_as_the_wire_would(dtype: str):
    class Third(Stage):
        def on_node(self, updates: Updates, view: NodeView) -> tuple[Updates, Arrays]:
            return replace(updates, delta=updates.delta / np.float32(3)), view.memory

    held = federation(stored(dtype), rounds=1, stages=(Third(),))
    held.hold()
    for reply in held.fleet.received:
        if isinstance(reply, Updates):
            carried = widen(narrow(reply.delta, dtype), dtype).astype(np.float32)
            assert carried.tobytes() == reply.delta.tobytes()
