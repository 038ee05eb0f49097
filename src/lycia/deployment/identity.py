"""Who is who: Ed25519 keys, the coordinator's certificate, and one-time invitations that pin it."""

import hashlib
import hmac
import ipaddress
import json
import os
import re
import socket
import ssl
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lycia.errors import AccessError, ConnectionFailed

Role = Literal["node", "evaluator", "operator"]
ROLES: tuple[Role, ...] = ("node", "evaluator", "operator")
_VALID_FROM = timedelta(days=7)  # clocks may be wrong: a certificate is valid from a week before it was made
_VALID_FOR = timedelta(days=3650)
_PREFIX = "lycia1."
NODE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""What a node may be called: it is part of paths and URLs."""
COORDINATOR_URL = r"^https://[^\s/?#@]+/?$"
"""How a coordinator may be reached: always over TLS, and at the root of its host."""
_PIN = r"^[0-9a-f]{64}$"


def signed_bytes(label: str, *fields: bytes) -> bytes:
    """What a signature covers: a label and length-prefixed fields, so that nothing reads as something else."""
    parts = (label.encode(), *fields)
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


@dataclass(frozen=True)
class Identity:
    """An Ed25519 key pair; the private half never leaves the place where it was made."""

    private: Ed25519PrivateKey

    @classmethod
    def at(cls, path: Path) -> "Identity":
        """The key that is kept at `path`, made now if there is none; readable by its owner only."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            key = Ed25519PrivateKey.generate()
            raw = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(path, raw)
        try:
            loaded: object = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # cut off, of another kind, or locked with a password
            loaded = None
        if not isinstance(loaded, Ed25519PrivateKey):
            raise AccessError(
                f"{path} does not hold an Ed25519 key.",
                why="nodes and operators are known by such a key.",
                do="restore the file from a backup, or move it away and join with a new invitation.",
            )
        return cls(loaded)

    @property
    def public(self) -> str:
        """The public key, 64 hex characters."""
        return self.private.public_key().public_bytes_raw().hex()

    def sign(self, label: str, *fields: bytes) -> str:
        """A signature over label and fields, in hex."""
        return self.private.sign(signed_bytes(label, *fields)).hex()


def is_signed(public: str, signature: str, label: str, *fields: bytes) -> bool:
    """Whether `signature` was made by the holder of `public` over exactly this."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(
            bytes.fromhex(signature), signed_bytes(label, *fields)
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its first byte on; a kill leaves the old file or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)  # one with other permissions would keep them
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)
    part.replace(path)


def make_certificate(hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """A self-signed certificate for `hosts` and its private key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lycia coordinator")])
    now = datetime.now(UTC)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _VALID_FROM)
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def certificate_pin(pem: str) -> str:
    """SHA-256 of the certificate, in hex: what an invitation carries."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def fetch_certificate(url: str, pin: str) -> str:
    """The certificate that the coordinator at `url` shows, PEM, if it is the pinned one.

    Raises: ConnectionFailed, if nobody answers there, or somebody else does.
    """
    address = urlsplit(url)
    try:
        pem = ssl.get_server_certificate((address.hostname or "", address.port or 443), timeout=10)
    except (OSError, ValueError) as error:
        raise ConnectionFailed(
            f"no coordinator answers at {url} ({error}).",
            why="the invitation names that address.",
            do="check that `lycia serve` runs there, and that this machine can reach the address and port.",
        ) from None
    if not hmac.compare_digest(certificate_pin(pem), pin):
        raise ConnectionFailed(
            f"whoever answers at {url} is not the coordinator that invited this node.",
            why=f"its certificate has the SHA-256 {certificate_pin(pem)[:16]}…, and the invitation pins {pin[:16]}….",
            do="ask the operator for a new invitation; if the coordinator did not change, something stands in between.",
        )
    return pem


def client_context(pem: str) -> ssl.SSLContext:
    """TLS that accepts the one certificate `pem` and nothing else, whatever name the server is reached by."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate itself is pinned, which says more than its names
    context.load_verify_locations(cadata=pem)
    return context


@dataclass(frozen=True)
class Invitation:
    """What an operator hands to a site, once: where the coordinator is, how to know it, and a token to enrol with."""

    url: str
    pin: str
    token: str
    name: str
    role: str

    def to_text(self) -> str:
        """One line without spaces, to be copied."""
        body = urlsafe_b64encode(json.dumps(asdict(self), separators=(",", ":")).encode()).decode().rstrip("=")
        return f"{_PREFIX}{body}.{_checksum(body)}"

    @classmethod
    def from_text(cls, text: str) -> "Invitation":
        """The invitation that `to_text` wrote.

        Raises: AccessError, if the text is not a whole invitation.
        """
        text = "".join(text.split())
        try:
            if not text.startswith(_PREFIX):
                raise ValueError(f"it does not begin with {_PREFIX}")
            body, _, checksum = text.removeprefix(_PREFIX).partition(".")
            if checksum != _checksum(body):  # so that a typing error is not taken for somebody in between
                raise ValueError("a part of it is missing or wrong")
            invitation = cls(**json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4))))
            if not all(isinstance(value, str) for value in asdict(invitation).values()):
                raise ValueError("a field of it is not text")
            patterns = (("name", NODE_NAME), ("url", COORDINATOR_URL), ("pin", _PIN))
            wrong = [name for name, pattern in patterns if not re.fullmatch(pattern, getattr(invitation, name))]
            if wrong:
                raise ValueError(f"its {wrong[0]} is not one")
        except (ValueError, TypeError, RecursionError) as error:
            raise AccessError(
                f"this is not an invitation: {text[:24]!r}… ({error}).",
                why="an invitation is one line that `lycia invite` prints; a part of it may be missing.",
                do="copy the whole line again, or ask the operator for a new one.",
            ) from None
        return invitation


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def token_hash(token: str) -> str:
    """What the coordinator keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def own_names(host: str) -> list[str]:
    """The names under which a coordinator that listens on `host` is reached from here."""
    names = ["localhost", "127.0.0.1", "::1", socket.gethostname()]
    return list(dict.fromkeys([*names, *([host] if host not in ("0.0.0.0", "::") else [])]))


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
