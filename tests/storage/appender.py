"""A process that keeps a run and says what was acknowledged, until it is killed. One life for each line that it reads.

Each life is a fork of a process that has imported everything, so that many of them are cheap.
"""

import asyncio
import os
import sys
from itertools import accumulate
from pathlib import Path

from tests.storage.material import (
    Call,
    DatabasePlace,
    FolderPlace,
    Known,
    Place,
    begin,
    in_a_file,
    one_round,
    what_it_knows,
)

ROUNDS = 100
STORY: list[Call] = [begin(), *(call for number in range(ROUNDS) for call in one_round(number))]
_EVENTS = list(accumulate((2, 1, 2, 1, 1), initial=0))  # how many events are known after each call of a round


def calls_made(known: Known) -> int:
    """How much of the story must have happened for this to be known."""
    if known.carried is None:
        return 0
    return 1 + len(one_round(0)) * len(known.records) + _EVENTS.index(len(known.events))


def live(place: Place) -> None:
    """Go on with the story from where the last life ended."""
    store, found = place.open(), what_it_knows(place)
    say(f"begins {os.getpid()} {calls_made(found)}")

    async def go_on() -> None:
        await store.resume()
        for number, call in enumerate(STORY[calls_made(found) :], start=calls_made(found) + 1):
            await call.make(store)
            say(f"acknowledged {number}")

    asyncio.run(go_on())


def say(line: str) -> None:
    """Say it at once: what is still in a buffer dies with the process."""
    os.write(1, f"{line}\n".encode())


def place_of(kind: str, path: str) -> Place:
    """Where the run is kept: in a folder, or in the database of this URL, "" for one in that folder."""
    if kind == "folder":
        return FolderPlace(Path(path))
    return DatabasePlace(Path(path), (lambda _: kind) if kind else in_a_file)


def main() -> None:
    """One life for each line of the input. Arguments: a kind and a path, as `place_of` takes them."""
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            live(place_of(*sys.argv[1:]))
            os._exit(0)
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main()
