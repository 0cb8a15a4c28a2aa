"""MONAI Label's login by an identity provider, mended: its `jwt.decode` names no algorithm and refuses all tokens."""

import asyncio
import functools
import hmac
from collections.abc import Callable
from threading import Lock
from types import SimpleNamespace
from typing import Any

import jwt
import requests
from cachetools import TTLCache, cached
from monailabel.endpoints.user import auth

from lib.guard.errors import Refusal

ALGORITHMS = ["RS256"]  # never "none", nor one that takes the public key for a shared secret
NO = (400, 401, 403)  # how providers say that name or password are wrong
KEY_SECONDS = 600.0
REQUIRED = ["exp"]  # a token that never ends can't be taken back


def mend(own: str) -> None:
    """Let MONAI Label's own check, on which its roles rest, accept valid tokens - and `own`, a secret of this server's
    background processes, which have no user to log in."""
    check = auth.from_token
    asked = getattr(auth.get_public_key, "__wrapped__", auth.get_public_key)
    # MONAI Label's own keeps the provider's key forever, even after it was withdrawn.
    auth.get_public_key = cached(TTLCache(1, KEY_SECONDS), lock=Lock())(asked)

    def from_token(token: str) -> auth.User:
        return auth.DEFAULT_USER if hmac.compare_digest(token.encode(), own.encode()) else check(token)

    auth.jwt = SimpleNamespace(decode=decode)  # type: ignore[attr-defined]
    auth.from_token = from_token


def decode(token: str, key: Any, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """The claims of a token with a valid signature that has not expired; raises jwt.InvalidTokenError otherwise."""
    return jwt.decode(token, key, algorithms=ALGORITHMS, options={**(options or {}), "require": REQUIRED})  # type: ignore[arg-type]


def telling(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """MONAI Label's endpoint, that tells a provider's "no" to a name and password from its failing."""

    @functools.wraps(endpoint)
    async def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return await endpoint(*args, **kwargs)
        except requests.HTTPError as error:
            if error.response is not None and error.response.status_code in NO:
                detail = "The identity provider accepts no such name and password."
                raise Refusal(401, detail, "Check both, or ask whoever runs the provider.") from None
            raise

    return told


async def verify(token: str) -> None:
    """Raises a 401 for a token that isn't valid, a 503 where the provider can't be asked for its key."""
    try:
        await asyncio.to_thread(auth.from_token, token)
    except jwt.InvalidTokenError as error:
        reason = "has expired" if isinstance(error, jwt.ExpiredSignatureError) else "is not valid"
        raise Refusal(401, f"This token {reason}.", "Log in again: POST /auth/token.") from error
    except requests.RequestException:
        raise
    except Exception as error:  # claims that are missing or of another shape
        raise Refusal(401, "This token doesn't say who its user is.", "Ask for one with name and roles.") from error
