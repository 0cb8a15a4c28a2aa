"""MONAI Label's login by an identity provider, mended: its `jwt.decode` names no algorithm and refuses all tokens."""

import asyncio
import hmac
from types import SimpleNamespace
from typing import Any

import jwt
import requests
from monailabel.endpoints.user import auth

from lib.guard.errors import Refusal

ALGORITHMS = ["RS256"]  # never "none", nor one that takes the public key for a shared secret
REQUIRED = ["exp"]  # a token that never ends can't be taken back


def mend(own: str) -> None:
    """Let MONAI Label's own check, on which its roles rest, accept valid tokens - and `own`, a secret of this server's
    background processes, which have no user to log in."""
    check = auth.from_token

    def from_token(token: str) -> auth.User:
        return auth.DEFAULT_USER if hmac.compare_digest(token.encode(), own.encode()) else check(token)

    auth.jwt = SimpleNamespace(decode=decode)  # type: ignore[attr-defined]
    auth.from_token = from_token


def decode(token: str, key: Any, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """The claims of a token with a valid signature that has not expired; raises jwt.InvalidTokenError otherwise."""
    return jwt.decode(token, key, algorithms=ALGORITHMS, options={**(options or {}), "require": REQUIRED})  # type: ignore[arg-type]


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
