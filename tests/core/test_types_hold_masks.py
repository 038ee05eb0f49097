"""Secure aggregation's five messages fit the types: exchanges around training, private bytes for each node, and words
that only their sum gives a meaning. The cryptography here is a toy; the messages, and who sees which, are not."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from lycia.aggregators import UniformMean
from lycia.algorithms import SGD, FedAvg
from lycia.core.messages import TRAIN, Updates
from lycia.core.parts import Arrays, NodeView, ServerView, Stage, Told, Total
from lycia.core.plan import Evaluation, Plan, RoundRules
from lycia.selection import Everyone, Uniform
from lycia.testing import Fault, Federation, Fuse, Killed, Quadratic, QuadraticTrainer, check_stage, digest_of

MESSAGES = ("advertise", "share", TRAIN, "confirm", "unmask")
NODES = {f"node {n}": Quadratic.at([1.5 * n, -0.5 * n, 3.0 - n], 1.0, n + 1.0) for n in range(6)}
TRAINER = QuadraticTrainer(size=3)
_PRIME, _BASE = 2**61 - 1, 37


@dataclass(frozen=True)
class ToyMasks(Stage):
    """Double masking: a mask of each node's own, and one for each pair that cancels in the sum.

    Source: Bonawitz et al. 2017, "Practical secure aggregation", figure 4; every peer holds whole secrets here, where
      the paper has them in shares.
    """

    before: ClassVar[tuple[str, ...]] = ("advertise", "share")
    after: ClassVar[tuple[str, ...]] = ("confirm", "unmask")
    undone: ClassVar[str] = "on_sum"
    hides_rows: ClassVar[bool] = True
    words: ClassVar[str] = "uint64"

    def tell(self, exchange: str, view: ServerView) -> Told:
        if exchange == "share":
            return Told({"keys": _packed({node: _number(view.answers["advertise"][node]) for node in view.present})})
        if exchange == TRAIN:  # each node's inbox: what its peers have sealed for it alone
            sealed = {node: json.loads(view.answers["share"][node]) for node in view.present}
            inboxes = {to: {who: letters[to] for who, letters in sealed.items() if who != to} for to in view.present}
            keys = {node: _number(view.answers["advertise"][node]) for node in view.present}
            return Told({"keys": _packed(keys)}, {to: json.dumps(inbox).encode() for to, inbox in inboxes.items()})
        if exchange == "confirm":
            return Told({"survivors": _packed(list(view.present))})
        if exchange == "unmask":
            confirmed = {node: view.answers["confirm"][node].decode() for node in view.present}
            return Told({"certificate": _packed(confirmed)})
        return Told()

    def answer(self, exchange: str, view: NodeView) -> tuple[bytes, Arrays]:
        told = view.ask.told
        if exchange == "advertise":
            return str(pow(_BASE, _pair_secret(view.secret), _PRIME)).encode(), {}
        if exchange == "share":
            keys = _unpacked(told["keys"])
            assert keys[view.node] == pow(_BASE, _pair_secret(view.secret), _PRIME), "somebody changed this node's key"
            secrets = f"{_own_secret(view.secret)} {_pair_secret(view.secret)}"
            peers = {node: key for node, key in keys.items() if node != view.node}
            letters = {peer: _sealed(secrets, view.secret, key, view.node) for peer, key in peers.items()}
            return json.dumps(letters).encode(), {}
        if exchange == "confirm":
            survivors = _unpacked(told["survivors"])
            assert view.node in survivors
            return _signature(survivors).encode(), {**view.memory, "survivors": told["survivors"]}
        survivors, peers = _unpacked(view.memory["survivors"]), _unpacked(view.memory["inbox"])
        certificate = _unpacked(told["certificate"])
        assert set(certificate.values()) == {_signature(survivors)}, "nodes were told of different survivors"
        kinds = {peer: 0 if peer in survivors else 1 for peer in peers}  # one secret of each peer, and never both
        opened = {peer: (kinds[peer], int(peers[peer].split()[kinds[peer]])) for peer in peers}
        return json.dumps({**opened, view.node: (0, _own_secret(view.secret))}).encode(), {}

    def on_node(self, updates: Updates, view: NodeView) -> tuple[Updates, Arrays]:
        words = view.ask.grid.to_grid(updates.delta[0]).view(np.uint64)
        keys = _unpacked(view.ask.told["keys"])
        letters = json.loads(view.ask.each[view.node])
        inbox = {peer: _opened(letter, view.secret, keys[peer], peer) for peer, letter in letters.items()}
        words = words + _stream(_own_secret(view.secret), len(words))
        for peer in inbox:
            words = words + _pair_mask(view.node, peer, pow(keys[peer], _pair_secret(view.secret), _PRIME), len(words))
        return replace(updates, delta=words[np.newaxis]), {"inbox": _packed(inbox)}

    def on_sum(self, total: Total, view: ServerView) -> Total:
        keys = {node: _number(view.answers["advertise"][node]) for node in view.answers["share"]}
        opened = {
            (peer, kind): secret
            for body in view.answers["unmask"].values()
            for peer, (kind, secret) in json.loads(body).items()
        }
        words = total.values
        for node in total.survivors:
            words = words - _stream(opened[node, 0], len(words))
        for gone in keys.keys() - set(total.survivors):
            for node in total.survivors:  # their masks for the one who is gone did not cancel
                words = words - _pair_mask(node, gone, pow(keys[node], opened[gone, 1], _PRIME), len(words))
        return replace(total, values=words.view(np.int64))


def federation(*stages: Stage, rounds: int = 2, **options) -> Federation:
    rules = {"norm_bound": 50.0, "quorum": 0.5, "deadline_s": 9.0, "over_selection": 1.0, **options.pop("rules", {})}
    plan = Plan(
        rounds=rounds, selector=options.pop("selector", Everyone()), client=FedAvg(), aggregator=UniformMean(),
        server=SGD(), stages=stages, rules=RoundRules(**rules), evaluation=Evaluation(nodes=0, evaluators=False),
    )  # fmt: skip
    return Federation(plan, TRAINER, NODES, **options)


def outcome_of(held: Federation) -> str:
    held.hold()
    return digest_of(held.model)


def test_the_sum_of_masked_updates_is_the_clear_sum_bit_for_bit():
    assert outcome_of(federation(ToyMasks())) == outcome_of(federation())


def test_single_updates_reach_the_server_as_words_that_say_nothing():
    held = federation(ToyMasks(), rounds=1)
    held.hold()
    seen = [reply.delta for reply in held.fleet.received if isinstance(reply, Updates)]
    assert {delta.dtype.name for delta in seen} == {"uint64"}
    # A clear word is below 2**52 in size, as the grid leaves room for 1024 of them; a masked one fills all 64 bits.
    assert all(np.abs(delta.view(np.int64)).max() > 2**58 for delta in seen)


@pytest.mark.parametrize("exchange", MESSAGES)
@pytest.mark.parametrize("does", ["silence", "decline", "vanish", "late", "garble"])
def test_a_node_may_drop_out_at_each_of_the_five_messages(exchange: str, does: str):
    masked = federation(ToyMasks(), faults=[Fault("node 2", does, exchange), Fault("node 4", does, exchange)])
    # Whoever's masked update was heard is in the sum, also if the node is gone when the masks come off.
    counts = exchange in ("confirm", "unmask")
    clear = federation(faults=[] if counts else [Fault("node 2", "decline"), Fault("node 4", "decline")])
    assert outcome_of(masked) == outcome_of(clear)
    assert [len(record["survivors"]) for record in masked.records] == [6 if counts else 4] * 2


def test_nodes_may_drop_out_at_all_of_the_messages_in_one_round():
    faults = [Fault("node 1", "silence", "share"), Fault("node 2", "silence"), Fault("node 3", "silence", "unmask")]
    masked = federation(ToyMasks(), faults=faults)
    clear = federation(faults=[Fault("node 1", "decline"), Fault("node 2", "decline")])
    assert outcome_of(masked) == outcome_of(clear)


@pytest.mark.parametrize("exchange", MESSAGES)
def test_too_many_dropouts_end_the_attempt_and_the_next_one_has_new_keys(exchange: str):
    gone = [Fault(f"node {n}", "silence", exchange, attempts=frozenset({0})) for n in range(4)]
    held = federation(ToyMasks(), rounds=1, faults=gone)
    held.hold()
    keys = [
        {node: event.bodies[0] for event in journal if getattr(event, "bodies", ()) for node in event.nodes}
        for journal in map(advertisements, held.store.journals)
    ]
    assert [bool(record["missed"]) for record in held.records] == [True, False]
    assert not set(keys[0].values()) & set(keys[1].values())
    assert digest_of(held.model) == outcome_of(federation(rounds=1))


def test_whoever_is_replaced_is_replaced_before_the_first_roster_and_never_after():
    some = {"selector": Uniform(4), "rounds": 1}
    willing = federation(ToyMasks(), **some)
    willing.hold()
    (cohort,) = willing.fleet.asked("advertise")
    early = federation(ToyMasks(), **some, faults=[Fault(cohort[0], "decline", "advertise")])
    early.hold()
    assert list(map(len, early.fleet.asked("advertise"))) == [4, 1]
    for exchange in MESSAGES[1:]:
        later = federation(ToyMasks(), **some, faults=[Fault(cohort[0], "decline", exchange)])
        later.hold()
        assert all(set(nodes) <= set(cohort) for nodes in later.fleet.asked(exchange))


def test_private_bytes_are_for_one_node_only():
    held = federation(ToyMasks(), rounds=1)
    held.hold()
    (ask,) = [ask for ask in held.fleet.sent if ask.exchange == TRAIN]
    assert ask.each.keys() == set(NODES)
    assert len(set(ask.each.values())) == len(NODES)


def test_a_coordinator_that_dies_at_any_moment_goes_on_with_the_same_masks():
    whole = federation(ToyMasks(), rounds=1, faults=[Fault("node 2", "silence")])
    expected = outcome_of(whole)
    for moment in range(1, whole.fuse.count + 1, 7):
        held = federation(ToyMasks(), rounds=1, faults=[Fault("node 2", "silence")], fuse=Fuse(moment))
        with pytest.raises(Killed):
            held.hold()
        held.restart()
        assert outcome_of(held) == expected
        assert len(held.fleet.worked) == len(set(held.fleet.worked))


def test_an_empty_cohort_has_an_empty_sum():
    class Nobody(Everyone):
        exact: ClassVar[bool] = True

        def draw(self, roster, count, without, random) -> tuple[str, ...]:
            return ()

    held = federation(ToyMasks(), rounds=1, selector=Nobody(), rules={"quorum": None, "over_selection": None})
    held.hold()
    assert held.model.trained.tolist() == held.start.model.trained.tolist()


def test_the_stage_keeps_its_contract():
    check_stage(ToyMasks())


# ---------------------------------------------------------------------------------------------------- the toy's insides


def advertisements(journal: list) -> Iterator:
    tasks = {
        event.task for event in journal if getattr(event, "exchange", "") == "advertise" and hasattr(event, "task")
    }
    return (event for event in journal if getattr(event, "task", None) in tasks)


def _own_secret(secret: bytes) -> int:
    return _number(hashlib.sha256(b"own" + secret).digest())


def _pair_secret(secret: bytes) -> int:
    return _number(hashlib.sha256(b"pair" + secret).digest())


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else int.from_bytes(text[:7], "big")


def _stream(seed: int, size: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).integers(0, 2**64, size, dtype=np.uint64)


def _pair_mask(mine: str, peer: str, shared: int, size: int) -> np.ndarray:
    mask = _stream(shared, size)
    return mask if mine < peer else np.uint64(0) - mask


def _pad(secret: bytes, key: int, sender: str, size: int) -> bytes:
    shared = pow(key, _pair_secret(secret), _PRIME)
    return hashlib.shake_256(f"{shared} {sender}".encode()).digest(size)


def _sealed(text: str, secret: bytes, key: int, sender: str) -> str:
    pad = _pad(secret, key, sender, len(text))
    return bytes(a ^ b for a, b in zip(text.encode(), pad, strict=True)).hex()


def _opened(letter: str, secret: bytes, key: int, sender: str) -> str:
    sealed = bytes.fromhex(letter)
    return bytes(a ^ b for a, b in zip(sealed, _pad(secret, key, sender, len(sealed)), strict=True)).decode()


def _signature(survivors: list[str]) -> str:
    return hashlib.sha256(json.dumps(survivors).encode()).hexdigest()


def _packed(value: Mapping | list) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _unpacked(array: np.ndarray):
    return json.loads(array.tobytes())
