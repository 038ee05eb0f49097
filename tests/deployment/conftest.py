"""A coordinator as a real process, and nodes that join it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from lycia.deployment.identity import Invitation
from lycia.deployment.local import Federation
from lycia.deployment.wire import InviteMessage
from tests.deployment.raw_node import RawNode

APP = Path(__file__).with_name("small_app.py")


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    """A coordinator without nodes."""
    with Federation(tmp_path / "home", APP, ["--silence", "5"]) as running:
        yield running


@pytest.fixture
def invite(federation: Federation) -> Callable[..., Invitation]:
    """Makes invitations."""

    def make(name: str, **more: object) -> Invitation:
        said = federation.client.post("/v1/invitations", InviteMessage(name=name, **more))
        return Invitation.from_text(said["invitation"])

    return make


@pytest.fixture
def raw_node(invite: Callable[..., Invitation], tmp_path: Path) -> Iterator[Callable[[str], RawNode]]:
    """Makes nodes that are only their calls."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(closing(RawNode(invite(name), tmp_path / "raw" / name)))
