"""For tests, ours and yours: a federation in one process that can be made to fail, and checks for parts of your own."""

from lycia.testing.checks import (
    ContractBroken,
    check_aggregator,
    check_client_rule,
    check_selector,
    check_server_optimizer,
    check_stage,
    check_trainer,
)
from lycia.testing.fakes import (
    FakeFleet,
    FakeRoster,
    Fault,
    Federation,
    Fuse,
    Killed,
    ManualClock,
    MemoryStore,
    Watching,
    digest_of,
)
from lycia.testing.quadratics import Quadratic, QuadraticTrainer, optimum_of

__all__ = [
    "ContractBroken",
    "FakeFleet",
    "FakeRoster",
    "Fault",
    "Federation",
    "Fuse",
    "Killed",
    "ManualClock",
    "MemoryStore",
    "Quadratic",
    "QuadraticTrainer",
    "Watching",
    "check_aggregator",
    "check_client_rule",
    "check_selector",
    "check_server_optimizer",
    "check_stage",
    "check_trainer",
    "digest_of",
    "optimum_of",
]
