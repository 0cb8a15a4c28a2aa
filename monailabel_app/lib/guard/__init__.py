"""The guard around MONAI Label: who may call, what may be said, and what is answered when something goes wrong.

`install` puts it around the running app. `asgi` is the gate that every request passes; `upstream` MONAI Label's routes
behind checks and in threads; `infer`, `session`, `routes` and `proxy` those answered differently; `errors` and `logs`
what is told to clients and to the operator.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from monailabel.config import settings
from starlette.middleware import Middleware

from lib import backend, private
from lib.guard import asgi, errors, infer, login, logs, oidc, page, proxy, routes, session, store, upstream
from lib.options import TOKEN

__all__ = ["install", "logs"]

DEFAULT_UPLOAD_LIMIT = 2 * 2**30


def install(
    app: FastAPI,
    instance: Any,
    *,
    token: str | None,
    upload_limit: int = DEFAULT_UPLOAD_LIMIT,
    cors: Sequence[str] = (),
) -> None:
    """Guard a running MONAI Label server: `instance` is its app, `cors` the origins whose pages may call.

    Called last, from the app's start, before the server accepts connections.
    """
    logs.install()
    auth = settings.MONAI_LABEL_AUTH_ENABLE
    store.share(instance.datastore())
    session.sweep(instance.sessions())
    info = routes.Info(instance)
    instance.info = info  # MONAI Label asks for it again with each request
    _replace_routes(app, instance, info, upload_limit, auth, token)
    for kind in errors.HANDLED:
        app.add_exception_handler(kind, errors.handle)
    app.user_middleware = gate(token, upload_limit, cors, auth)
    app.middleware_stack = app.build_middleware_stack()


def gate(token: str | None, upload_limit: int, cors: Sequence[str], auth: bool) -> list[Middleware]:
    """What every request passes, outermost first."""
    asked: list[Middleware] = []
    if auth:
        oidc.mend(private.keep(TOKEN, secrets.token_urlsafe(32)))  # background processes are told it
        asked = [Middleware(asgi.OpenId, verify=oidc.verify, login=login.OPEN)]
    elif token:
        asked = [Middleware(asgi.Bearer, token=token, login=login.OPEN)]
    return [
        Middleware(asgi.Watch),
        Middleware(asgi.Origins, listed=cors, local_only=not asked),
        *asked,
        Middleware(asgi.UploadLimit, limit=upload_limit),
    ]


def _replace_routes(
    app: FastAPI, instance: Any, info: routes.Info, upload_limit: int, auth: bool, token: str | None
) -> None:
    ours = APIRouter()
    for part in (
        routes.router(instance, info),
        infer.router(instance, backend.queue),
        session.router(instance, upload_limit),
        proxy.router(instance),
    ):
        ours.include_router(part)
    replaced = {
        (method, route.path)
        for made in (routes.router(instance, info), session.router(instance, upload_limit))
        for route in made.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
    if token and not auth:
        ours.include_router(login.router(token))
    for route in upstream.remove(app):
        ours.add_api_route(route.path, route.endpoint, include_in_schema=False)
    app.include_router(page.router(app))
    app.include_router(ours, prefix=settings.MONAI_LABEL_API_STR)
    app.include_router(upstream.guarded(instance, replaced, auth), prefix=settings.MONAI_LABEL_API_STR)
    app.openapi_schema = None
