"""Which releases speak with each other: neighbours do, so that a fleet can be upgraded one machine after another."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata

from lycia.deployment.wire import PROTOCOL
from lycia.errors import VersionError

__all__ = ["PROTOCOL", "check_neighbours", "own", "said_in", "spoken", "works_with"]

VERSION_HEADER, PROTOCOL_HEADER = "lycia-version", "lycia-protocol"


@cache
def own() -> str:
    """The release that runs here, such as "0.1.0"; "" where it was never installed."""
    try:
        return metadata.version("lycia")
    except metadata.PackageNotFoundError:
        return ""


def spoken() -> dict[str, str]:
    """The headers with which each side of a call says what it speaks."""
    return {VERSION_HEADER: own(), PROTOCOL_HEADER: str(PROTOCOL)}


def works_with(release: str) -> list[str]:
    """The minor releases that one of this release works with.

    Example:
      >>> works_with("0.4.2"), works_with("1.0.0")
      (['0.3', '0.4', '0.5'], ['1.0', '1.1'])
    """
    place = _place(release)
    if place is None:
        return []
    major, minor = place
    return [f"{major}.{near}" for near in (minor - 1, minor, minor + 1) if near >= 0]


def check_neighbours(caller: str, coordinator: str) -> None:
    """Check that a caller and a coordinator of these releases speak with each other; who says nothing is let pass.

    Raises: VersionError.
    """
    one, other = _place(caller), _place(coordinator)
    if not caller or not coordinator or (one and other and one[0] == other[0] and abs(one[1] - other[1]) <= 1):
        return
    raise VersionError(
        f"a caller of lycia {_readable(caller)} does not work with a coordinator of lycia {_readable(coordinator)}.",
        why="only neighbouring minor releases do; between others messages may have changed their meaning.",
        do=f"install lycia {', '.join(works_with(coordinator)) or 'of the same release'} where the call comes from; or "
        "upgrade the coordinator, one minor release at a time.",
    )


def said_in(headers: Mapping[str, str]) -> str:
    """The release that the other side of a call says it is; "" if it says nothing."""
    return headers.get(VERSION_HEADER, "")


def _place(release: str) -> tuple[int, int] | None:
    found = re.match(r"(\d{1,6})\.(\d{1,6})(?!\d)", release)
    return (int(found[1]), int(found[2])) if found else None


def _readable(release: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in release[:40])
