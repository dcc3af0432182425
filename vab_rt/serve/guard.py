"""Who may ask: no other web page, no name that was made to point here, and with a token only those
who have it."""

import hmac
import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on this address."""
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


class Guard:
    """In front of all routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        names: Sequence[str] = (),
        token: str | None = None,
        open_paths: Sequence[str] = (),
    ) -> None:
        """host: that the server listens on. names: others that it is reached by. open_paths: those
        that are answered without a token."""
        self.app, self.token, self.open_paths = app, token, frozenset(open_paths)
        self.names = {*LOOPBACK, host.lower(), *(name.lower() for name in names)}
        address = _address(host)
        self.takes_addresses = address is not None and address.is_unspecified

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(scope) if scope["type"] == "http" else None
        await (refused or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_known(host):
            return refusal(400, f"the host is {host!r}, which this server does not go by")
        origin = headers.get("origin")
        is_open = scope["path"] in self.open_paths
        is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if is_foreign or (headers.get("sec-fetch-site") == "cross-site" and not is_open):
            return refusal(403, "another page asks, expected this server's own or no page at all")
        if self.token is None or is_open:
            return None
        given = headers.get("authorization", "").encode("latin-1")
        if hmac.compare_digest(given, b"Bearer " + self.token.encode()):
            return None
        more = {"WWW-Authenticate": "Bearer"}
        return refusal(401, "the token is missing or wrong, expected Authorization: Bearer", more)

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or (self.takes_addresses and _address(name) is not None)


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """After which the connection is closed."""
    return JSONResponse({"error": message}, status, {"Connection": "close", **(headers or {})})
