"""Logging in as MONAI Label's clients know it, with the server's token as the password; any user name will do."""

import asyncio
import hmac
from typing import Annotated

from fastapi import APIRouter, Form
from fastapi.responses import JSONResponse

from lib.guard.errors import Refusal

OPEN = ("/auth/", "/auth/token")  # what a client must reach before it has a token
GUESS_SECONDS = 1.0


def router(token: str) -> APIRouter:
    """The routes by which a client learns that it must log in, does so, and asks whether its token still holds."""
    made = APIRouter(prefix="/auth", tags=["Auth"])

    @made.get("/", summary="Check If Auth is Enabled")
    def api_auth_enabled() -> JSONResponse:
        return JSONResponse({"enabled": True, "client_id": "perturbox", "realm": None})

    @made.post("/token", summary="The token, for who knows it: send it as the password")
    async def api_access_token(
        password: Annotated[str, Form(max_length=1024)], username: Annotated[str, Form(max_length=256)] = ""
    ) -> JSONResponse:
        if not hmac.compare_digest(password.encode("utf-8", "replace"), token.encode()):
            await asyncio.sleep(GUESS_SECONDS)  # guessing is slow
            raise Refusal(401, "This password is not the server's token.", "Ask whoever runs this server for it.")
        return JSONResponse({"access_token": token, "token_type": "Bearer"})

    @made.get("/token/valid", summary="Check If current token is Valid")
    def api_valid_token() -> JSONResponse:
        return JSONResponse({"username": "user", "roles": []})  # the gate has asked already

    return made
