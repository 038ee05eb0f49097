"""What goes over the network comes out as it went in; whatever else comes is refused in words, and never worse."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, ValidationError

from lycia import SGD, Everyone, ExampleWeightedMean, FedAvg, Plan
from lycia.core import admission, space, tensorfile
from lycia.core.columns import Columns
from lycia.core.grid import Grid
from lycia.core.layout import Layout, Leaf, Model
from lycia.core.messages import Answer, Ask, Declined, Malformed, Scores, Updates
from lycia.core.tensorfile import Tensor
from lycia.deployment import wire
from lycia.deployment.wire import (
    AliveMessage,
    AskMessage,
    EnrolMessage,
    InviteMessage,
    PollMessage,
    Problem,
    ReplyMessage,
    SessionMessage,
    Shared,
    StartMessage,
)
from lycia.errors import LyciaError, NotFound, StorageError

MESSAGES = [
    AliveMessage, AskMessage, EnrolMessage, InviteMessage, PollMessage, Problem, ReplyMessage, SessionMessage,
    StartMessage,
]  # fmt: skip
LAYOUT = Layout((Leaf("weight", (2, 3)), Leaf("bias", (3,))))
MIXED = Layout((Leaf("half", (4,), "float16"), Leaf("brain", (2, 2), "bfloat16"), Leaf("full", (3,), "float64")))
PLAN = Plan(rounds=2, selector=Everyone(), client=FedAvg(), aggregator=ExampleWeightedMean(), server=SGD())
DIGEST = "0123456789abcdef" * 4


def updates_of(delta: np.ndarray, **more: object) -> Updates:
    """A block of one."""
    given = {"extra": {}, "metrics": {"loss": np.array([0.5])}, "handles": ("handle",)} | more
    return Updates(3, ("north",), delta[np.newaxis], np.array([40.0]), **given)


def sent(updates: Updates, layout: Layout = LAYOUT, run: str = "a-run") -> bytes:
    """Its file."""
    return b"".join(wire.update_file(layout, updates, run))


def received(content: bytes, layout: Layout = LAYOUT, run: str = "a-run", task: int = 3, node: str = "north"):
    """What the coordinator makes of a file."""
    return wire.decode_update(layout, content, run, task, node, "handle")


# -------------------------------------------------------------------------------------------------------------- updates


@given(hnp.arrays(np.float32, 9, elements=st.floats(width=32)))
def test_an_update_comes_out_as_it_went_in_whatever_its_numbers(delta: np.ndarray):
    block = updates_of(delta, extra={"variate": np.arange(4.0)[np.newaxis]}, metrics={"loss": np.array([0.25])})
    found = received(sent(block))
    assert isinstance(found, Updates)
    assert found.delta.tobytes() == block.delta.tobytes()
    assert found.weight.tolist() == [40.0]
    assert found.extra["variate"].tolist() == [[0.0, 1.0, 2.0, 3.0]]
    assert found.metrics == {"loss": np.array([0.25])}
    assert (found.task, found.nodes, found.handles) == (3, ("north",), ("handle",))


@given(hnp.arrays(np.float32, MIXED.size("trained"), elements=st.floats(-1e4, 1e4, width=32)))
def test_an_update_travels_in_the_dtypes_of_its_model(delta: np.ndarray):
    rounded = MIXED.round_trip("trained", delta[np.newaxis], update=True)
    content = sent(updates_of(rounded[0]), MIXED)
    assert {name: tensor.dtype for name, tensor in tensorfile.read(content)[0].items()} == {
        "half": "float16", "brain": "bfloat16", "full": "float32",
    }  # fmt: skip
    found = received(content, MIXED)
    assert isinstance(found, Updates)
    assert found.delta.tobytes() == rounded.tobytes()


def test_a_large_update_in_narrow_dtypes_stays_in_its_file_and_counts_the_same(monkeypatch: pytest.MonkeyPatch):
    delta = np.random.default_rng(0).normal(size=(1, MIXED.size("trained"))).astype(np.float32)
    rounded = MIXED.round_trip("trained", delta, update=True)
    content = sent(updates_of(rounded[0]), MIXED)
    small = received(content, MIXED)
    monkeypatch.setattr(space, "LARGE_BYTES", 1)
    large = received(content, MIXED)
    assert (type(small.delta), type(large.delta)) == (np.ndarray, Columns)
    assert admission.misshapen(MIXED, PLAN, large) is None
    assert admission.measure(large).norms.tobytes() == admission.measure(small).norms.tobytes()
    assert large.row(0).delta[0, 2:9].tobytes() == small.delta[0, 2:9].tobytes()
    assert sent(updates_of(rounded[0]), MIXED) == content


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_masked_words_come_out_as_they_went_in(dtype: type):
    words = np.arange(9).astype(dtype) * np.iinfo(dtype).max
    found = received(sent(updates_of(words)))
    assert isinstance(found, Updates)
    assert found.delta.dtype == dtype
    assert found.delta.tolist() == [words.tolist()]


def test_an_update_of_plain_float32_is_a_view_of_the_bytes_that_came():
    content = sent(updates_of(np.arange(9, dtype=np.float32)))
    found = received(content)
    assert isinstance(found, Updates)
    assert np.shares_memory(found.delta, np.frombuffer(content, np.uint8))


def test_an_update_whose_tensors_lie_in_another_order_is_read_all_the_same():
    tensors, said = tensorfile.read(sent(updates_of(np.arange(9, dtype=np.float32))))
    found = received(tensorfile.to_bytes(dict(reversed(tensors.items())), said))
    assert isinstance(found, Updates)
    assert found.delta.tolist() == [list(range(9))]


@pytest.mark.parametrize("change", [{"run": "another"}, {"task": 4}, {"node": "south"}])
def test_an_update_counts_for_its_own_run_task_and_node_alone(change: dict[str, object]):
    found = received(sent(updates_of(np.zeros(9, np.float32))), **change)
    assert isinstance(found, Malformed)
    assert "was made for ['a-run', 3, 'north']" in found.reason


def test_no_two_updates_are_the_same_file():
    block = updates_of(np.zeros(9, np.float32))
    assert (
        len({sent(block), sent(replace(block, task=4)), sent(replace(block, nodes=("south",))), sent(block, run="b")})
        == 4
    )


@given(st.binary(max_size=400))
def test_bytes_that_are_no_update_are_malformed_and_no_exception(content: bytes):
    assert isinstance(received(content), Malformed)


HONEST = sent(updates_of(np.arange(9, dtype=np.float32), extra={"variate": np.zeros((1, 2))}))


@given(st.integers(0, len(HONEST) - 1), st.integers(0, 255))
def test_an_update_with_one_byte_changed_is_an_update_or_malformed(place: int, byte: int):
    changed = bytearray(HONEST)
    changed[place] = byte
    found = received(bytes(changed))
    assert isinstance(found, (Updates, Malformed))
    assert found.task == 3


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["for", "weight", "metrics", "other"]), ANY))
@example({"for": ["a-run", 3, "north"], "weight": 10**400, "metrics": {}})
@example({"for": ["a-run", 3, "north"], "weight": 1, "metrics": {"loss": -(10**400)}})
@example({"for": ["a-run", 3, "north"], "weight": 1, "metrics": {"loss": None}})
def test_whatever_an_update_says_of_itself_is_read_or_malformed(said: dict[str, object]):
    said = {"for": ["a-run", 3, "north"], "weight": 1.0, "metrics": {}} | said
    tensors, _ = tensorfile.read(HONEST)
    found = received(tensorfile.to_bytes(tensors, {"lycia.update": json.dumps(said)}))
    assert isinstance(found, (Updates, Malformed))


def test_what_a_node_writes_of_itself_cannot_flood_or_garble_a_record():
    tensors, _ = tensorfile.read(HONEST)
    metrics = {f"\x1b[31m{number}": 1.0 for number in range(5000)}
    said = {"for": ["a-run", 3, "north"], "weight": 1.0, "metrics": metrics}
    found = received(tensorfile.to_bytes(tensors, {"lycia.update": json.dumps(said)}))
    assert isinstance(found, Updates)
    assert len(found.metrics) <= 200
    assert all(name.isprintable() for name in found.metrics)
    stranger = tensorfile.to_bytes({"x\x1b" * 100_000: Tensor.of(np.zeros(1))}, {"lycia.update": json.dumps(said)})
    refused = received(stranger)
    assert isinstance(refused, Malformed)
    assert len(refused.reason) <= 1000
    assert refused.reason.isprintable()


def test_an_update_that_was_taken_is_read_again_and_one_that_has_changed_since_is_told_in_words():
    content = sent(updates_of(np.arange(9, dtype=np.float32)))
    assert wire.reread(LAYOUT, content, "handle").delta.tolist() == [list(range(9))]
    with pytest.raises(StorageError, match="cannot be read any more"):
        wire.reread(LAYOUT, content[:-1], "handle")
    with pytest.raises(StorageError, match="cannot be read any more"):
        wire.reread(LAYOUT, b"", "handle")


# ----------------------------------------------------------------------------------------------------------------- asks


def test_an_ask_comes_out_as_it_went_in_with_what_it_names():
    model = Model(np.arange(9, dtype=np.float32))
    ask = Ask(
        "a-run", DIGEST, 4, 1, 17, "train", ("north", "south"), model, {"rate": np.array([0.5])},
        {"north": b"\x00secret"}, 2.5, Grid(-40), 1e7, 30.0,
    )  # fmt: skip
    message = wire.encode_ask(ask, LAYOUT, Shared(DIGEST, None, DIGEST, {DIGEST: "AAAA"}), "north")
    again = AskMessage.model_validate_json(message.model_dump_json())
    file, told = b"".join(wire.model_file(LAYOUT, model, "a-run")), b"".join(wire.told_file(ask.told, "a-run"))
    found = wire.decode_ask(again, "north", wire.decode_model(LAYOUT, file, None), wire.decode_told(told))
    assert found.model is not None
    assert found.model.trained.tolist() == model.trained.tolist()
    assert found.told["rate"].tolist() == [0.5]
    assert replace(found, model=None, told={}) == replace(ask, nodes=("north",), model=None, told={})
    other = wire.decode_ask(wire.encode_ask(ask, LAYOUT, Shared(None, None, None, {}), "south"), "south", None, {})
    assert other.each == {}


def test_a_model_with_parts_that_are_sent_once_comes_out_whole():
    layout = Layout((Leaf("head", (2,)), Leaf("base", (3,), "float16", "frozen"), Leaf("own", (2,), segment="local")))
    head, own = np.ones(2, np.float32), np.full(2, 7.0, np.float32)
    model = layout.model({"head": head, "base": np.arange(3, dtype=np.float16), "own": own})
    base = wire.base_file(layout, model)
    assert base is not None
    found = wire.decode_model(layout, b"".join(wire.model_file(layout, model, "a-run")), b"".join(base))
    assert found.frozen["base"].tolist() == [0.0, 1.0, 2.0]
    assert found.local.tolist() == [7.0, 7.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("run", "../../outside"),
        ("run", "/etc"),
        ("run", ""),
        ("plan", "../../etc/passwd"),
        ("model", "ABC"),
        ("told", "0" * 63),
    ],
)
def test_what_becomes_a_path_at_the_node_cannot_lead_out_of_its_folder(field: str, value: str):
    ask = Ask("a-run", DIGEST, 0, 0, 1, "train", ("north",), weight_cap=1.0, deadline_s=1.0)
    message = wire.encode_ask(ask, LAYOUT, Shared(None, None, None, {}), "north")
    with pytest.raises(ValidationError):
        AskMessage.model_validate(message.model_dump() | {field: value})


# ------------------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    "reply",
    [
        Scores(3, ("north",), np.array([12.0]), {"accuracy": np.array([0.5]), "loss": np.array([1.25])}),
        Answer(3, "north", b"\x00\xffbytes"),
        Declined(3, "north", "it has no examples"),
    ],
    ids=["scores", "answer", "declined"],
)
def test_a_reply_comes_out_as_it_went_in(reply: Scores | Answer | Declined):
    again = ReplyMessage.model_validate_json(wire.encode_reply(reply).model_dump_json())
    found = wire.decode_reply(again, 3, "north")
    if isinstance(reply, Scores):
        assert isinstance(found, Scores)
        assert (found.nodes, found.weight.tolist(), dict(found.metrics)) == (("north",), [12.0], dict(reply.metrics))
    else:
        assert found == reply


def test_a_score_that_is_no_number_is_left_out():
    scores = Scores(3, ("north",), np.array([1.0]), {"loss": np.array([np.nan]), "accuracy": np.array([0.5])})
    assert wire.encode_reply(scores).metrics == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (ReplyMessage(kind="riddle\x1b"), "unknown kind"),
        (ReplyMessage(kind="answer", body="=not base64="), "not base64"),
    ],
)
def test_a_reply_that_nobody_understands_is_malformed(message: ReplyMessage, reason: str):
    found = wire.decode_reply(message, 3, "north")
    assert isinstance(found, Malformed)
    assert reason in found.reason
    assert found.reason.isprintable()


def test_a_refusal_is_shown_as_it_is_but_can_move_no_cursor():
    found = wire.decode_reply(ReplyMessage(kind="declined", reason="[/bold]\x1b[2J\n" + "long " * 1000), 3, "north")
    assert isinstance(found, Declined)
    assert found.reason.startswith("[/bold]")
    assert found.reason.isprintable()
    assert len(found.reason) == 1000


@pytest.mark.parametrize("kind", MESSAGES)
@given(content=st.binary(max_size=60) | ANY.map(lambda value: json.dumps(value).encode()))
def test_bytes_that_are_no_message_are_refused_in_one_way(kind: type[BaseModel], content: bytes):
    complaints = []
    try:
        kind.model_validate_json(content)
    except ValidationError as error:
        complaints.append(wire.first_complaint(error))
    assert all(complaints)


@pytest.mark.parametrize("examples", ["NaN", "Infinity", "-1", "1e300", '"many"'])
def test_a_number_of_examples_is_a_number(examples: str):
    with pytest.raises(ValidationError):
        PollMessage.model_validate_json(f'{{"examples": {examples}}}')


@pytest.mark.parametrize("name", ["", "a b", "../up", "-dash", "a/b", "x" * 64, "north\n", "é"])
def test_a_node_is_called_what_can_stand_in_a_path(name: str):
    with pytest.raises(ValidationError):
        InviteMessage(name=name)


@pytest.mark.parametrize("url", ["", "coordinator:8443", "http://coordinator", "https://", "https://a/b", "ftp://a"])
def test_a_coordinator_is_reached_over_tls(url: str):
    with pytest.raises(ValidationError):
        InviteMessage(name="north", url=url)


def test_a_problem_tells_the_same_error_at_the_other_end():
    error = NotFound("there is no run.", why="nobody started one.", do="start one.")
    found = Problem.model_validate_json(Problem.of(error).model_dump_json()).to_error()
    assert type(found) is NotFound
    assert (found.what, found.why, found.do) == (error.what, error.why, error.do)


@pytest.mark.parametrize("kind", ["Unheard", "_rebuild", "__builtins__", "LyciaError", ""])
def test_a_problem_of_an_unknown_kind_is_an_error_of_ours_all_the_same(kind: str):
    assert type(Problem(kind=kind, what="a", why="b", do="c").to_error()) is LyciaError
