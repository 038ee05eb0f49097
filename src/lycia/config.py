"""Where things are kept, and what the environment says."""

import os
from pathlib import Path

DEFAULT_PORT = 8443

ENVIRONMENT = {
    "LYCIA_HOME": "The folder for everything of this user: coordinator, nodes, simulated runs; `~/.lycia` if not set.",
    "LYCIA_DATA": "A folder with data sets that are there already; `lycia.data.datasets` looks into it first.",
    "LYCIA_CACHE": "Where data sets are kept that were downloaded; the user's cache folder if not set.",
    "HTTPS_PROXY, NO_PROXY": "How nodes, operators and downloads reach the network.",
}
"""Variable → what it means. The only ones that are read."""


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
