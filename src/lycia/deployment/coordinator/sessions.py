"""Who is calling. A caller signs a nonce that this coordinator made, and gets a bearer for a while."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from lycia.deployment.identity import Role, is_signed
from lycia.errors import AccessError

_NONCE_S = 60.0
_BEARER_S = 900.0
_MOST_NONCES = 10_000


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
        body = f"{name}|{role}|{self._now_s() + _BEARER_S:.0f}"
        return f"{body}|{self._mac(body)}"

    def caller(self, bearer: str) -> Caller | None:
        """Who holds this bearer; None if it is not one of ours, or has run out."""
        body, _, mac = bearer.rpartition("|")
        fields = body.split("|")
        is_ours = hmac.compare_digest(mac.encode(), self._mac(body).encode())  # as bytes: it may hold anything
        if len(fields) != 3 or not is_ours or float(fields[2]) < self._now_s():
            return None
        role = fields[1]
        return Caller(fields[0], "operator" if role == "operator" else "evaluator" if role == "evaluator" else "node")

    def _mac(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), hashlib.sha256).hexdigest()
