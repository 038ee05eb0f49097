"""`lycia join` or `lycia serve`, pretending to be of another release: $PRETENDS_TO_BE.

A later one says more than this release knows, and an earlier one says and understands less.
"""

import os
import sys
from typing import Any

from pydantic import BaseModel, create_model

from lycia.cli import main
from lycia.deployment import versions, wire
from lycia.deployment.coordinator.gate import Gate
from lycia.deployment.node import agent, client, trainer

OWN = versions.own()


def pretend() -> None:
    """Say that it is of the other release, and speak as that would."""
    release = os.environ["PRETENDS_TO_BE"]
    versions.own = lambda: release  # type: ignore[assignment]
    real = BaseModel.model_dump_json

    def more(self: BaseModel, **how: Any) -> str:
        return real(self, **how)[:-1].replace("{}", "{") + (", " if type(self).model_fields else "") + '"news": [1]}'

    def less(self: BaseModel, **how: Any) -> str:
        return real(self, **how, exclude_defaults=True)

    is_later = release > OWN
    for kind in (wire.PollMessage, wire.AliveMessage, wire.ReplyMessage, wire.EnrolMessage, wire.SessionMessage):
        kind.model_dump_json = more if is_later else less  # type: ignore[method-assign]
    if not is_later:  # it has never heard of what was added since
        fields = {name: (field.annotation, field) for name, field in wire.AskMessage.model_fields.items()}
        earlier = create_model(
            "AskMessage", __base__=wire._Message, **{k: v for k, v in fields.items() if k != "undone"}
        )
        earlier.undone = []  # type: ignore[attr-defined]
        for room in (client, agent, trainer):
            room.AskMessage = earlier  # type: ignore[attr-defined]
    Gate._check_release = lambda *_: None  # type: ignore[method-assign]  # releases before 0.1 had no gate


if __name__ == "__main__":
    pretend()
    sys.argv[0] = "lycia"
    main()
