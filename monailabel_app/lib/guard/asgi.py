"""The gate every request passes before any route sees it, as pure ASGI middleware, in this order:

`Watch` logs and turns the unforeseen into JSON · `Origins` refuses pages of other sites and, without a token, names
that are not this machine's (DNS rebinding) · `Bearer` or `OpenId` asks who calls · `UploadLimit` counts bytes as they
come.
"""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lib.guard import errors
from lib.guard.errors import Refusal
from lib.guard.logs import note_request

WITH_BODY = ("POST", "PUT", "PATCH")
# Pages of other sites may neither show nor embed what is answered, nor guess at its kind.
ALWAYS = [
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
]
GUESS_SECONDS = 0.5
DRAIN_BYTES, DRAIN_SECONDS = 64 * 2**20, 5.0


class Watch:
    """One log line for each request; whatever exception escapes a route is answered here, so that no traceback is."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # nothing here speaks it
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *ALWAYS]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except ClientDisconnect:
            status = 499  # as other servers log it: the client disconnected before sending the whole request
        except Exception as error:
            if status:  # too late for another answer; the client sees a cut one
                errors.explain(error)
            else:
                await errors.response(error)(scope, receive, watched)
        finally:
            note_request(scope, status, time.monotonic() - begun)


class Origins:
    """Pages of other sites: answered with CORS headers where their origin is listed, refused otherwise.

    A server without a token trusts whoever reaches it, so there a page of another site, or one that pretends its host
    name is this machine, must not.
    """

    def __init__(self, app: ASGIApp, listed: Sequence[str] = (), local_only: bool = False):
        self.app, self.local_only = app, local_only
        self.listed = frozenset(origin.rstrip("/").lower() for origin in listed)
        headers = ["Authorization", "Content-Type", "Perturbox-API"]
        methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
        self.cors = CORSMiddleware(app, allow_origins=list(self.listed), allow_methods=methods, allow_headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        if self.local_only and not is_loopback(urlsplit(f"//{host}").hostname if _parses(host) else None):
            detail = "This server answers only under this machine's own name, like 127.0.0.1 or localhost."
            error = Refusal(403, detail, "Use http://127.0.0.1, or start the server with a token.")
            await refuse(error, scope, receive, send)
        elif origin is not None and origin.lower() in self.listed:
            await self.cors(scope, receive, send)
        elif self.local_only and (_from_elsewhere(headers, scope["method"]) or not _same(origin, host)):
            detail = "Pages of other sites may not use this server."
            error = Refusal(403, detail, "List the page's origin when starting the server.")
            await refuse(error, scope, receive, send)
        else:
            await self.app(scope, receive, send)


class Bearer:
    """Only who sends the token gets in, whatever the address and method; `login`'s paths are open, to log in."""

    def __init__(self, app: ASGIApp, token: str, login: Sequence[str] = ()):
        self.app, self.token, self.login = app, token.encode(), frozenset(login)
        self.guessing = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self.login:
            await self.app(scope, receive, send)
            return
        sent = bearer_token(scope)
        if sent is not None and hmac.compare_digest(sent.encode("latin-1"), self.token):
            await self.app(scope, receive, send)
            return
        if sent is not None:
            async with self.guessing:  # one wrong token after the other, however many try
                await asyncio.sleep(GUESS_SECONDS)
        detail = "This server needs its token." if sent is None else "This is not the server's token."
        await refuse(Refusal(401, detail), scope, receive, send)


class OpenId:
    """Only who sends a valid token of the identity provider gets in; logging in itself is open, by `login`'s paths."""

    def __init__(self, app: ASGIApp, verify: Callable[[str], Awaitable[None]], login: Sequence[str]):
        self.app, self.verify, self.login = app, verify, frozenset(login)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in self.login:
            await self.app(scope, receive, send)
            return
        token = bearer_token(scope)
        try:
            if token is None:
                raise Refusal(401, "This server needs a token of its identity provider.", "Log in: POST /auth/token.")
            await self.verify(token)
        except Exception as error:
            await refuse(error, scope, receive, send)
            return
        await self.app(scope, receive, send)


class UploadLimit:
    """No request may bring more than `limit` bytes: what says so is refused unread, what doesn't is cut off there."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "")
        # Clients of MONAI Label leave an old Content-Length on requests that have no body; only bodies count.
        if scope["method"] in WITH_BODY and said.isascii() and said.isdigit() and int(said) > self.limit:
            await refuse(self.refusal(), scope, receive, send)
            return
        came, answered, over = 0, False, False

        async def counted() -> Message:
            nonlocal came, over
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.limit:
                over = True
                raise self.refusal()
            return message

        async def kept(message: Message) -> None:
            nonlocal answered
            if over and not answered:  # what the parser made of the cut does not matter
                return
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, kept)
        except Exception:
            if not over or answered:
                raise
        if over and not answered:
            await refuse(self.refusal(), scope, receive, send)

    def refusal(self) -> Refusal:
        return Refusal(413, f"The server takes at most {self.limit / 2**20:g} MiB in one request.")


async def refuse(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a refusal. An upload is read on for a while: a client still sending would not see the answer."""
    answer = errors.response(error)
    start = {"type": "http.response.start", "status": answer.status_code, "headers": answer.raw_headers}
    await send(start)
    body = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if scope["method"] in WITH_BODY:
        with suppress(TimeoutError):
            await asyncio.wait_for(_drain(receive), DRAIN_SECONDS)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    came = 0
    while came < DRAIN_BYTES:
        message = await receive()
        came += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def bearer_token(scope: Scope) -> str | None:
    """The token in the Authorization header, if it has one."""
    word, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return token.strip() if word.lower() == "bearer" and token.strip() else None


def is_loopback(name: str | None) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name is None:
        return False
    if name.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _parses(host: str) -> bool:
    try:
        return urlsplit(f"//{host}").port is not None or True
    except ValueError:
        return False


def _from_elsewhere(headers: Headers, method: str) -> bool:
    """Whether a browser says that another site's page asks; a link that a user follows is no such thing.

    Pictures, scripts and frames of a page are asked for without an Origin.
    """
    if headers.get("sec-fetch-site", "none").lower() not in ("cross-site", "same-site"):
        return False
    followed = (headers.get("sec-fetch-mode", ""), headers.get("sec-fetch-dest", "")) == ("navigate", "document")
    return not (followed and method in ("GET", "HEAD"))


def _same(origin: str | None, host: str) -> bool:
    """Whether a page of that origin is this server's own; where none is said, no page asks."""
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower() != ""
    except ValueError:
        return False
