"""What the scripts of this folder have in common: how they are called, and how they say what they found.

    python bench/NAME.py                 measure, and write bench/NAME.md
    python bench/NAME.py --quick         a smaller measurement in under a minute, which writes no page
    python bench/NAME.py --with-peers    also measure the peer, in an environment of its own, in the same run

The last line of every run is one JSON object: {"bench": NAME, "figures": {name: value}, "skipped": [peer, …]}.
"""

import argparse
import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

BENCH = Path(__file__).resolve().parent
_OURS = ("lycia", "numpy")


@dataclass(frozen=True)
class Wanted:
    """What a script was called for.

    Attributes:
      peers: where the peers' environments are kept; None to leave the peers out.
    """

    quick: bool
    peers: Path | None


@dataclass(frozen=True)
class Figure:
    """One number, with its unit in its name.

    Attributes:
      how: what was measured, so that it can be measured again.
      target: what it should be, where that is settled.
    """

    value: float
    how: str
    target: str = ""


def wanted(description: str | None, arguments: Sequence[str] | None = None) -> Wanted:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure less, in under a minute, and write no page")
    parser.add_argument("--with-peers", action="store_true", help="install the peer beside us, and measure it too")
    parser.add_argument("--peers-dir", type=Path, default=_cache() / "lycia" / "peers", help="default: %(default)s")
    asked = parser.parse_args(arguments)
    return Wanted(asked.quick, asked.peers_dir.absolute() if asked.with_peers else None)


def tell(
    name: str,
    asked: Wanted,
    figures: Mapping[str, Figure],
    *,
    notes: Sequence[str] = (),
    peers: Mapping[str, str] | None = None,
    skipped: Sequence[str] = (),
) -> None:
    """Print the figures, write the page of a full run, and close with the line of JSON.

    Args:
      notes: what a reader must know to trust the figures, a paragraph each.
      peers: peer → version, of those that were measured; skipped: those that were not.
    """
    width = max(map(len, figures))
    for key, figure in figures.items():
        print(f"{key:{width}}  {figure.value:10.4g}  {figure.target}")
    if not asked.quick:
        page = BENCH / f"{name}.md"
        page.write_text(_page(name, figures, notes, peers or {}, skipped), encoding="utf-8")
        print(f"wrote {page}")
    values = {key: float(f"{figure.value:.6g}") for key, figure in figures.items()}
    print(json.dumps({"bench": name, "figures": values, "skipped": list(skipped)}), flush=True)


def load() -> str:
    """How busy the machine is, others' work included."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def _page(
    name: str, figures: Mapping[str, Figure], notes: Sequence[str], peers: Mapping[str, str], skipped: Sequence[str]
) -> str:
    versions = {"python": platform.python_version(), **{name: _version(name) for name in _OURS}, **peers}
    lines = [
        f"# {name}",
        "",
        f"Taken by `{shlex.join(['python', f'bench/{name}.py', *sys.argv[1:]])}` on {datetime.now(UTC):%Y-%m-%d}; "
        "the script says how, and runs anywhere.",
        "",
        "| figure | value | target | what it is |",
        "|---|---:|---|---|",
        *(f"| `{key}` | {figure.value:.4g} | {figure.target} | {figure.how} |" for key, figure in figures.items()),
        "",
        *(line for note in notes for line in (note, "")),
        *([f"Not measured in this run: {', '.join(skipped)} (`--with-peers`).", ""] if skipped else []),
        f"Versions: {', '.join(f'{key} {version}' for key, version in versions.items())}.",
        f"Machine: {_machine()}; load over 1, 5 and 15 minutes when the run ended: {load()}.",
        "",
    ]
    return "\n".join(lines)


def _machine() -> str:
    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB of memory"
    return f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores{memory}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from its source tree"


def _cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
