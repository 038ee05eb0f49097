"""The dashboard as files for a browser, and the browser as a caller: its cookie is for the coordinator's page alone.

The page is static, and fetches nothing from anywhere else. What it shows it asks of the same doors as everybody.
"""

from collections.abc import Iterator
from hashlib import sha256
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from lycia.deployment.coordinator.service import Service
from lycia.deployment.coordinator.sessions import Caller
from lycia.errors import AccessError, NotFound

PATHS = ("/", "/dashboard", "/dashboard/", "/dashboard/{digest}/{file:path}")
OWN_PAGE = "x-lycia-dashboard"
"""A header that the page sends with what changes something; no other page can make a browser send it here."""

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin", "cross-origin-resource-policy": "same-origin",
}  # fmt: skip
_FOR_EVER = "public, max-age=31536000, immutable"


class Page:
    """The files, as they were when the coordinator started. All but the first one lie under the digest of them all."""

    def __init__(self) -> None:
        root = resources.files("lycia.deployment.coordinator").joinpath("page")
        self._files = dict(_served(root, ""))
        self._digest = sha256(b"".join(sha256(self._files[name]).digest() for name in sorted(self._files))).hexdigest()[
            :16
        ]
        first = self._files.pop("index.html").decode()
        self._first = first.replace("DIGEST", self._digest).encode()

    def answer(self, request: Request) -> Response:
        """A file of the page.

        Raises: NotFound.
        """
        if "digest" not in request.path_params:
            if request.url.path != "/dashboard/":
                return RedirectResponse("/dashboard/")
            return _file(self._first, "index.html", "no-cache")
        name = request.path_params["file"]
        if request.path_params["digest"] != self._digest or name not in self._files:
            raise NotFound(
                f"the dashboard has no file {name[:200]!r}.",
                why="it is of another version of the page, or there never was one.",
                do="reload the page.",
            )
        return _file(self._files[name], name, _FOR_EVER)


def visitor(service: Service, request: Request) -> Caller | None:
    """Which operator's browser is calling, by its cookie; None, if it has no good one.

    Raises: AccessError, if another page makes the browser change something here.
    """
    caller = service.visitor(request.cookies.get(_cookie(service.pin), ""))
    if caller is not None and request.method not in ("GET", "HEAD"):
        check_own_page(request)
    return caller


def check_own_page(request: Request) -> None:
    """Check that it is the dashboard's own page that calls.

    Raises: AccessError.
    """
    if OWN_PAGE not in request.headers or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise AccessError(
            "the call does not come from the coordinator's own page.",
            why="a browser sends its cookie along with whatever any page asks of it.",
            do="use the dashboard; a program signs in with a key (/v1/challenge, /v1/session).",
        )


def set_cookie(response: Response, pin: str, cookie: str, lasts_s: float) -> None:
    """Have the browser keep a cookie, out of reach of any script; lasting 0 seconds, it is forgotten."""
    response.set_cookie(_cookie(pin), cookie, max_age=int(lasts_s), secure=True, httponly=True, samesite="strict")


def _cookie(pin: str) -> str:
    # Ports of one host share their cookies, so each coordinator has a name for its own.
    return f"__Host-lycia-{pin[:8]}"


def _served(folder: Traversable, place: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _served(entry, f"{place}{entry.name}/")
        elif any(entry.name.endswith(kind) for kind in _KINDS):
            yield place + entry.name, entry.read_bytes()


def _file(content: bytes, name: str, cache: str) -> Response:
    kind = next(media for ending, media in _KINDS.items() if name.endswith(ending))
    return Response(content, headers={**_HEADERS, "cache-control": cache}, media_type=kind)
