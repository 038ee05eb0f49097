"""Who is calling. A caller signs a nonce that this coordinator made, and gets a bearer for a while.

An operator who looks at the dashboard has a browser, which has no key: it brings a code that the operator's command
line was given, and gets a cookie.
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from lycia.deployment.identity import Role, is_signed
from lycia.errors import AccessError

_NONCE_S = 60.0
_BEARER_S = 900.0
CODE_S = 60.0
COOKIE_S = 8 * 3600.0
_MOST_NONCES = 10_000
_MOST_CODES = 1_000


@dataclass(frozen=True)
class Caller:
    """Somebody who has proved to hold a key that is enrolled here."""

    name: str
    role: Role


class Sessions:
    """Challenges and bearers. No clock but the coordinator's own counts, so a node's may be wrong by any amount."""

    def __init__(self, secret: bytes, now_s: Callable[[], float]) -> None:
        self._secret, self._now_s = secret, now_s
        self._nonces: dict[str, tuple[str, float]] = {}
        self._codes: dict[str, tuple[str, float]] = {}

    def challenge(self, name: str) -> str:
        """A nonce for `name` to sign, good for a minute and one use."""
        while len(self._nonces) >= _MOST_NONCES:  # anybody may ask for one, so the oldest make room
            del self._nonces[next(iter(self._nonces))]
        nonce = secrets.token_hex(32)
        self._nonces[nonce] = (name, self._now_s() + _NONCE_S)
        return nonce

    def open(self, name: str, nonce: str, signature: str, public_key: str, role: Role) -> str:
        """A bearer for the holder of `public_key`.

        Raises: AccessError, if the nonce is not one made for `name`, or the signature is not the key's.
        """
        known = self._nonces.pop(nonce, None)
        fresh = known is not None and known[0] == name and known[1] > self._now_s()
        if not fresh or not is_signed(public_key, signature, "lycia session", name.encode(), nonce.encode()):
            raise AccessError(
                f"{name!r} could not prove who it is.",
                why="the signature is not by the key enrolled under this name, or its challenge is not good any more.",
                do="try again; if the key is lost, ask the operator for an invitation under another name.",
            )
        return self._sealed("bearer", _BEARER_S, name, role)

    def caller(self, bearer: str) -> Caller | None:
        """Who holds this bearer; None if it is not one of ours, or has run out."""
        fields = self._unsealed("bearer", bearer)
        if len(fields) != 2:
            return None
        name, role = fields
        return Caller(name, "operator" if role == "operator" else "evaluator" if role == "evaluator" else "node")

    def code(self, name: str) -> str:
        """A code with which a browser can get an operator's cookie: good for a minute and one use."""
        while len(self._codes) >= _MOST_CODES:
            del self._codes[next(iter(self._codes))]
        code = secrets.token_urlsafe(24)
        self._codes[code] = (name, self._now_s() + CODE_S)
        return code

    def redeem(self, code: str) -> str:
        """The cookie for a code.

        Raises: AccessError, if the code was used before, has run out, or is none.
        """
        name, until_s = self._codes.pop(code, ("", 0.0))
        if until_s <= self._now_s():
            raise AccessError(
                "the code is not good, or not any more.",
                why=f"a code is good for one use within {CODE_S:.0f} seconds, and until the coordinator starts again.",
                do="run `lycia dashboard` again, which gets a new one.",
            )
        return self._sealed("cookie", COOKIE_S, name)

    def visitor(self, cookie: str) -> Caller | None:
        """Which operator's browser holds this cookie; None if it is not one of ours, or has run out."""
        fields = self._unsealed("cookie", cookie)
        return Caller(fields[0], "operator") if len(fields) == 1 else None

    def _sealed(self, purpose: str, lasts_s: float, *fields: str) -> str:
        body = "|".join((*fields, f"{self._now_s() + lasts_s:.0f}"))
        return f"{body}|{self._mac(purpose, body)}"

    def _unsealed(self, purpose: str, text: str) -> list[str]:
        """The fields that were sealed for this purpose; none, if they were not, or it was too long ago."""
        body, _, mac = text.rpartition("|")
        if not hmac.compare_digest(mac.encode(), self._mac(purpose, body).encode()):  # as bytes: it may hold anything
            return []
        *fields, until_s = body.split("|")
        return fields if float(until_s) >= self._now_s() else []

    def _mac(self, purpose: str, body: str) -> str:
        return hmac.new(self._secret, f"{purpose}|{body}".encode(), hashlib.sha256).hexdigest()
