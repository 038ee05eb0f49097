"""`lycia join`, but some replies come late or never, as a script says."""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lycia.deployment.identity import Invitation
from lycia.deployment.node import agent
from lycia.deployment.wire import AskMessage
from tests.stories.digits_app import DEADLINE_S
from tests.stories.script import SCRIPT


class ScriptedAgent(agent.Agent):
    """Delivers as the script says; all the rest is the real agent."""

    def deliver(self, message: AskMessage, said: Mapping[str, Any]) -> str:
        scripted = message.exchange == "train" and message.attempt == 0
        mishap = SCRIPT.get((message.round, self._name)) if scripted else None
        if mishap == "vanish":
            time.sleep(0.5)  # it is offered the same ask again, and again
            return "never sent"
        if mishap == "late":
            time.sleep(DEADLINE_S + 1.0)
        return super().deliver(message, said)


def main() -> None:
    """Understands the arguments that `Federation` gives."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # the trainer imports the stories' app, too
    agent.Agent = ScriptedAgent  # type: ignore[misc]
    arguments = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
    agent.join(
        Invitation.from_text(sys.argv[2]),
        Path(arguments["--app"]),
        arguments["--data"],
        Path(arguments["--home"]),
        {},
        print,
    )


if __name__ == "__main__":
    main()
