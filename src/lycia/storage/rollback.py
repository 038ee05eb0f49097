"""Back to an earlier round, and which rounds one can go back to. Each function works inside a `Database.write`.

A round that ended leaves, beside its model, all that the run carried out of it: that is what it goes back to. What came
after is not deleted: its records stay, marked as undone. What must never come twice only ever grows: the numbers of
tasks, so that no late update of an undone round can be taken for a new one's; and, through the number of each round's
first attempt, the pairs (round, attempt), under which coordinator and nodes have drawn and written down their secrets:
the same place with other bytes would be noise or a mask that cancels nothing, or that is seen twice.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update

from lycia.core.events import Asked
from lycia.errors import NotFound, StorageError
from lycia.storage.blobs import BlobFolder
from lycia.storage.database import Connection, Database
from lycia.storage.runs import get_run, journal_of_run
from lycia.storage.tables import EVENTS, MODELS, RECORDS, RUNS


@dataclass(frozen=True)
class Held:
    """The blobs that one round's end is kept in: the model, and the arrays beside it ("" where there are none)."""

    model: str
    arrays: str


def check_kept(connection: Connection, id: str, number: int) -> str:
    """What a run carried on after `number` rounds, as it is kept.

    Raises: NotFound, if there is no such run, or if it is not kept.
    """
    get_run(connection, id)
    kept = connection.scalar(select(MODELS.c.carried).where(MODELS.c.run == id, MODELS.c.round == number))
    if kept is None:
        raise _not_kept(connection, id, number)
    return str(kept)


def roll_back(
    connection: Connection, id: str, number: int, *, by: str, at_s: float, reason: str, retries: int
) -> list[Held]:
    """Put a run back to what it was after `number` rounds, and pause it; returns what it held of the undone rounds.

    Args:
      by, reason: who undoes, and what the run says of itself from now on.
      retries: how often the plan tries a round again; the run has all of these tries from here on.
    Raises: NotFound, if there is no such run, or if that round is not kept.
    """
    run = get_run(connection, id)
    kept, held = check_kept(connection, id, number), _held(connection, id)
    now: Mapping[str, Any] = json.loads(connection.scalar(select(RUNS.c.carried).where(RUNS.c.id == id)) or "{}")
    tasks = [event.task for event in journal_of_run(connection, id) if isinstance(event, Asked)]
    task = max([now.get("task", 0), *(asked + 1 for asked in tasks)])
    first_attempt = max(now.get("first_attempt", 0), _next_attempt(connection, id, retries + 1))
    # What a node did in a round from here on is undone; what earlier rollbacks undid of these rounds is among it.
    undone = [pair for pair in now.get("undone", ()) if pair[0] < number] + [[number, task]]
    # What was in flight then has been delivered since, or is another version's: a buffered run asks anew.
    changes = {"task": task, "attempt": first_attempt, "first_attempt": first_attempt, "undone": undone, "inflight": []}
    carried = json.dumps({**json.loads(kept), **changes}, separators=(",", ":"))
    ended_s = at_s if run.state == "running" or run.ended_s is None else run.ended_s  # its clock stands since then
    connection.execute(
        update(RUNS).where(RUNS.c.id == id).values(carried=carried, state="paused", reason=reason, ended_s=ended_s)
    )
    connection.execute(delete(EVENTS).where(EVENTS.c.run == id))
    connection.execute(delete(MODELS).where(MODELS.c.run == id, MODELS.c.round > number))
    # The first round has number 0: of round `number` there are only attempts that came after the state that is kept.
    later = (RECORDS.c.run == id) & (RECORDS.c.round >= number) & RECORDS.c.undone_s.is_(None)
    connection.execute(update(RECORDS).where(later).values(undone_s=at_s, undone_by=by))
    return [blobs for round_number, blobs in held.items() if round_number > number]


def let_go(connection: Connection, id: str, newest: int) -> list[Held]:
    """Forget all but the first, the best and the newest rounds of a run; returns what it held of the others.

    The best one is that of the figure by which the plan stops; where it stops by none, no round is the best.
    """
    rows = connection.execute(
        select(MODELS.c.round, MODELS.c.carried).where(MODELS.c.run == id).order_by(MODELS.c.round)
    ).all()
    staying = {0, *(row.round for row in rows[-newest:])}
    for row in reversed(rows):
        carried = json.loads(row.carried) if row.carried else {}
        if carried.get("best") is not None and carried["since_best"] == 0:
            staying.add(row.round)
            break
    held = _held(connection, id)
    gone = [row.round for row in rows if row.round not in staying]
    if gone:
        connection.execute(delete(MODELS).where(MODELS.c.run == id, MODELS.c.round.in_(gone)))
    return [held[number] for number in gone]


def remove_unneeded(connection: Connection, blobs: BlobFolder, id: str, digests: Iterable[str]) -> None:
    """Remove those of a run's blobs that nothing names any more.

    Another run may have an equal model, and may be about to write down that it does: where both happen in the
    database's one writing thread, it either finds its blob or knows that it must put it there again.
    """
    needed = _needed(connection, id)
    for digest in {*digests} - {""} - needed:
        named = select(func.count()).select_from(MODELS).where(MODELS.c.digest == digest)
        first = select(func.count()).select_from(RUNS).where(RUNS.c.first_model == digest)
        if not connection.scalar(named) and not connection.scalar(first):
            blobs.remove(digest)


async def remove_held(database: Database, blobs: BlobFolder, id: str, held: Iterable[Held]) -> None:
    """Remove what nothing needs any more of rounds that are not kept; if that fails it lies there, and does no harm."""
    digests = {digest for one in held for digest in (one.model, one.arrays)}
    with suppress(StorageError):
        await database.write(lambda connection: remove_unneeded(connection, blobs, id, digests))


def _held(connection: Connection, id: str) -> dict[int, Held]:
    rows = connection.execute(
        select(MODELS.c.round, MODELS.c.digest, MODELS.c.carried).where(MODELS.c.run == id).order_by(MODELS.c.round)
    )
    return {row.round: Held(row.digest, json.loads(row.carried)["arrays"] if row.carried else "") for row in rows}


def _needed(connection: Connection, id: str) -> set[str]:
    carried = connection.scalars(
        select(MODELS.c.carried).where(MODELS.c.run == id).union_all(select(RUNS.c.carried).where(RUNS.c.id == id))
    )
    kept = [json.loads(text) for text in carried if text]
    return {digest for one in kept for digest in (one["model"], one["arrays"], one["frozen"])}


def _next_attempt(connection: Connection, id: str, tries: int) -> int:
    """The number from which on no attempt at any round of the run was made, and at which its tries begin anew."""
    made = [
        connection.scalar(select(func.max(table.c.attempt)).where(table.c.run == id)) for table in (RECORDS, EVENTS)
    ]
    last = max((attempt for attempt in made if attempt is not None), default=-1)
    return -(-(last + 1) // tries) * tries


def _not_kept(connection: Connection, id: str, number: int) -> NotFound:
    chosen = select(MODELS.c.round).where(MODELS.c.run == id, MODELS.c.carried.is_not(None))
    kept = [
        f"{first}" if first == last else f"{first}-{last}"
        for first, last in spans(connection.scalars(chosen.order_by(MODELS.c.round)))
    ]
    return NotFound(
        f"the run {id!r} cannot go back to what it was after {number} round{'' if number == 1 else 's'}.",
        why=f"kept is how it stood after so many rounds: {', '.join(kept)}." if kept else "it has not begun.",
        do="choose one of these; `lycia serve --keep-rounds` says how many are kept." if kept else "let it begin.",
    )


def spans(numbers: Iterable[int]) -> list[list[int]]:
    """Numbers in ascending order, as the first and the last one of each span of them.

    Example:
      >>> spans([3, 4, 5, 9])
      [[3, 5], [9, 9]]
    """
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return found
