"""A node reduced to its calls: for what a real agent would never send."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lycia.core import tensorfile
from lycia.core.layout import Layout
from lycia.core.messages import Updates
from lycia.core.tensorfile import Tensor
from lycia.deployment import wire
from lycia.deployment.identity import Identity, Invitation, fetch_certificate
from lycia.deployment.node.client import Client
from lycia.deployment.wire import AskMessage, ReplyMessage

Forge = Callable[["Draft"], bytes]


class RawNode:
    """Enrols, polls, and answers with the bytes that it is told to."""

    def __init__(self, invitation: Invitation, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.name, self._home = invitation.name, home
        certificate = fetch_certificate(invitation.url, invitation.pin)
        self.client = Client(invitation.url, certificate, invitation.name, Identity.at(home / "key.pem"), give_up_s=5.0)
        try:
            self.client.enrol(invitation.token, 10.0, {})
        except BaseException:
            self.client.close()
            raise

    def poll(self, wait_s: float = 10.0) -> AskMessage | None:
        """The next ask."""
        return self.client.poll(wait_s, 10.0)

    def layout(self, ask: AskMessage) -> Layout:
        """The layout of the run that an ask belongs to."""
        return Layout.from_json(self.client.download(ask.layout, self._home / ask.layout, ask.run).read_text())

    def send(self, ask: AskMessage, content: bytes) -> str:
        """Upload an update of exactly these bytes."""
        path = self._home / "update"
        path.write_bytes(content)
        return self.client.upload_update(ask.run, ask.task, path)

    def close(self) -> None:
        """Hang up."""
        self.client.close()

    def answer(self, ask: AskMessage, forge: Forge) -> str:
        """An update where one is asked for; scores elsewhere."""
        if ask.exchange != "train":
            return self.client.reply(
                ask.run, ask.task, ReplyMessage(kind="scores", weight=1.0, metrics={"accuracy": 0.5})
            )
        layout = self.layout(ask)
        return self.send(ask, forge(Draft(ask, self.name, layout, np.full(layout.size("trained"), 0.01, np.float32))))


@dataclass(frozen=True)
class Draft:
    """What an honest node would send: every parameter moves by 0.01."""

    ask: AskMessage
    node: str
    layout: Layout
    delta: np.ndarray

    def file(self, *, scale: float = 1.0, weight: float = 10.0, place: int = 0, value: float | None = None) -> bytes:
        """The file of an update, with its delta scaled, or one number of it replaced."""
        delta = self.delta * np.float32(scale)
        if value is not None:
            delta[place] = value
        block = Updates(
            self.ask.task, (self.node,), delta[np.newaxis], np.array([weight]), {}, {"loss": np.array([0.5])}
        )
        return b"".join(wire.update_file(self.layout, block, self.ask.run))


def with_tensors(content: bytes, change: Callable[[str, Tensor], Tensor]) -> bytes:
    """The same file with each tensor changed."""
    tensors, metadata = tensorfile.read(content)
    return tensorfile.to_bytes({name: change(name, tensor) for name, tensor in tensors.items()}, metadata)
