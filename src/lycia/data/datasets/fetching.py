"""Fetching one public file: streamed, gone on with where it broke off, and put in its place only once it is right."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

Progress = Callable[[str, int, int | None], None]
"""(name, bytes so far, bytes in all or None): told after every piece of a file that is fetched."""

_PATIENCE_S = 30.0  # of silence


def fetch(addresses: Sequence[str], target: Path, check: Callable[[Path], str], progress: Progress | None) -> list[str]:
    """Fetch a file from the first address that has it; returns why others had not, and all of them if it is not there.

    `check` says what is wrong with a file, or "". Proxies and certificates are those of the environment, as HTTPS_PROXY
    and SSL_CERT_FILE name them.

    Guarantees:
      - `target` appears at once, whole and checked, or not at all, also where several processes fetch it.
      - A transfer that breaks off is gone on with for as long as every try brings something new.
    """
    reasons = []
    target.parent.mkdir(parents=True, exist_ok=True)
    for address in addresses:
        part = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
        try:
            reason = _download(address, part, target.name, progress) or check(part)
            if not reason:
                part.replace(target)
                break
            reasons.append(f"{address}: {reason}")
        finally:
            part.unlink(missing_ok=True)
    return reasons


def _download(address: str, part: Path, name: str, progress: Progress | None) -> str:
    """Fill `part`; returns why it could not."""
    import httpx2

    reason, most = "", -1
    timeout = httpx2.Timeout(_PATIENCE_S)
    with httpx2.Client(follow_redirects=True, timeout=timeout) as client, part.open("wb") as file:
        while file.tell() > most:
            most = file.tell()
            wanted = {"accept-encoding": "identity"} | ({"range": f"bytes={most}-"} if most else {})
            try:
                with client.stream("GET", address, headers=wanted) as response:
                    if response.status_code >= 400:
                        return f"status {response.status_code}"
                    if response.status_code != 206:  # the whole file, from its beginning
                        file.seek(0)
                        file.truncate()
                    length = response.headers.get("content-length", "")
                    total = file.tell() + int(length) if length.isdigit() else None
                    for piece in response.iter_raw():  # as it arrives, so that nothing is lost with a connection
                        file.write(piece)
                        if progress is not None:
                            progress(name, file.tell(), total)
                return ""
            except (httpx2.HTTPError, httpx2.InvalidURL) as error:
                reason = f"{type(error).__name__}: {error}"
    return reason
