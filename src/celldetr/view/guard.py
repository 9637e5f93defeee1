"""Who may ask: pages of this server on this computer, with the token.

A web page from elsewhere must not read a user's slides through the browser. Its requests carry its own ``Origin``; when
it has its host name resolve to this computer (DNS rebinding), they carry that name as ``Host``. Neither is let in, nor
is another user of the computer, who does not know the token in the address.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE_HEADERS = {
    # Nothing from elsewhere, no script or style in the page's text; tiles and crops come as blobs, too.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI application that lets a request through to ``app``, below ``/TOKEN``, or refuses it with 403."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # a WebSocket: there are none

        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        token, _, rest = str(scope["path"]).removeprefix("/").partition("/")
        reason = refusal(Headers(scope=scope)) or (
            None if secrets.compare_digest(token.encode(), self.token.encode()) else "this address is not known here"
        )
        if reason is not None:
            await PlainTextResponse(f"{reason}\n", 403)(scope, receive, safely)
            return
        await self.app({**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode()}, receive, safely)


def refusal(headers: Headers) -> str | None:
    """Why a request with these headers is refused; None: it is not."""
    host = headers.get("host", "")
    # Any port: users reach a server elsewhere through a port of their own (ssh -L).
    if _host_name(f"//{host}") not in LOOPBACK:
        return "open this page by the address that celldetr view printed"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "requests from another page are refused"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "requests from another page are refused"
    return None


def _host_name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None
