"""What every door needs: a body as a message, a number from a query, and an answer in JSON."""

import math
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from lycia.deployment import wire
from lycia.deployment.wire import Problem
from lycia.errors import AccessError, LyciaError

M = TypeVar("M", bound=BaseModel)
_LARGEST_MESSAGE = 16 << 20  # a plan with its layout, or an answer with its shares, is far below
_MOST_EVENTS = 1 << 53  # of a run: more than there will be, and as far as JSON and SQLite can count


def json_of(message: BaseModel) -> Response:
    """A message as an answer."""
    return Response(message.model_dump_json(), media_type="application/json")


def problem_of(status: int, error: LyciaError) -> Response:
    """An error as an answer."""
    return Response(Problem.of(error).model_dump_json(), status, media_type="application/problem+json")


async def message_of(request: Request, kind: type[M]) -> M:
    """The body as a message.

    Raises: AccessError, if it is not one.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LARGEST_MESSAGE:
            raise _unreadable(f"it is larger than {_LARGEST_MESSAGE} bytes")
    try:
        return kind.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _unreadable(wire.first_complaint(error)) from None


def _unreadable(reason: str) -> AccessError:
    return AccessError(
        f"the message cannot be read: {reason}.",
        why="it is not what this version of the protocol says.",
        do="use the same minor version of lycia on both sides.",
    )


def number_of(said: Mapping[str, str], name: str, otherwise: float) -> float:
    """A number that stands under a name in headers or a query.

    Raises: AccessError, if what stands there is none.
    """
    try:
        value = float(said.get(name, otherwise))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _unreadable(f"{name} is not a number")
    return value


def after_of(said: Mapping[str, str], name: str) -> int:
    """The number of the last event that a watcher had; 0 for none."""
    return int(min(number_of(said, name, 0), _MOST_EVENTS))
