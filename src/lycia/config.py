"""Where things are kept, and what the environment says."""

import os
from pathlib import Path

DEFAULT_PORT = 8443


def home() -> Path:
    """The folder for everything of this user: `LYCIA_HOME`, or `.lycia` in the home folder."""
    return Path(os.environ.get("LYCIA_HOME") or Path.home() / ".lycia")


def coordinator_home() -> Path:
    """Where a coordinator keeps its runs, and its operator's key."""
    return home() / "coordinator"


def node_home(name: str) -> Path:
    """Where a node keeps its key and what it remembers."""
    return home() / "nodes" / name


def simulated_runs() -> Path:
    """Where simulated runs are kept."""
    return home() / "runs"
