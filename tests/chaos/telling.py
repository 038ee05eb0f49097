"""How processes of the suite say what happens in them: a line at once, which outlives whoever wrote it."""

import json
import os
from dataclasses import dataclass
from typing import Any, Literal

Program = Literal["coordinator", "agent", "trainer"]
_write = os.write  # as it was before any program wrapped it


@dataclass
class Teller:
    """This process's voice.

    Attributes:
      descriptor: a pipe to the harness; -1 where nobody listens.
      name: what the harness calls the process.
      program: which of the product's processes it is.
    """

    descriptor: int = -1
    name: str = ""
    program: Program = "coordinator"

    def tell(self, said: str, **more: Any) -> None:
        """Say it: short enough to be written in one piece, whoever else writes into the pipe."""
        if self.descriptor >= 0:
            line = {"name": self.name, "program": self.program, "pid": os.getpid(), "said": said, **more}
            _write(self.descriptor, json.dumps(line).encode() + b"\n")


me = Teller()
