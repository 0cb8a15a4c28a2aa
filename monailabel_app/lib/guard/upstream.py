"""MONAI Label's own endpoints behind the guard: arguments checked, in threads, answers in plain JSON.

They are `async def` in name only: none ever awaits, so each would hold up the whole server for as long as it takes.
Here one step drives such a coroutine to its end in a thread.
"""

import hashlib
import inspect
import json
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import anyio
from anyio import CapacityLimiter
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from monailabel.endpoints import (
    activelearning,
    batch_infer,
    datastore,
    info,
    login,
    logs,
    model,
    scoring,
    session,
    train,
)
from monailabel.interfaces.datastore import DefaultLabelTag
from monailabel.utils.async_tasks.utils import background_tasks
from starlette.responses import Response

from lib.dicomweb import DicomServer
from lib.guard import names, oidc, parameters, store, uploads
from lib.guard.errors import Refusal, bad, missing, plain

AT_ONCE = 16  # more wait their turn
WHOLE_TASKS_AT_ONCE = 2  # of those that a client waits for (run_sync), minutes each
MOST_WAITING = 4  # background tasks of a kind, each of them many jobs
MOST_REMEMBERED = 50
ROUTERS = {
    "info": info.router,
    "model": model.router,
    "batch": batch_infer.router,
    "train": train.router,
    "activelearning": activelearning.router,
    "scoring": scoring.router,
    "datastore": datastore.router,
    "logs": logs.router,
    "session": session.router,
    "auth": login.router,
}
Rule = Callable[[Any, dict[str, Any]], None]


def _new_image(app: Any, values: dict[str, Any]) -> None:
    suffix = uploads.check_spooled(values["file"])
    if not values.get("image"):
        values["image"] = uploads.stem_of(values["file"].filename, suffix)
    called = names.check_id(values["image"])
    values["image"] = names.stored(called)
    store.check_new(app, values["image"], suffix)
    _check_info(values)
    info = parameters.parse(values["params"])
    info |= {store.ALIAS: called} if called != values["image"] else {}
    values["params"] = json.dumps(info)
    values["file"].filename = f"image{suffix}"


def _image(app: Any, values: dict[str, Any]) -> None:
    store.check_image(app, values["image"])
    _check_info(values)


def _checked_image(app: Any, values: dict[str, Any]) -> None:
    """MONAI Label's own compares the sum with one that is written otherwise, so that none ever fits."""
    _image(app, values)
    asked = values["check_sum"]
    if asked:
        kind, _, digest = asked.rpartition(":")
        with open(app.datastore().get_image_uri(values["image"]), "rb") as file:
            if hashlib.file_digest(file, (kind or "SHA256").lower()).hexdigest() != digest.lower():
                raise missing("This image has another checksum.", "Download it again.")
        values["check_sum"] = None


def _new_label(app: Any, values: dict[str, Any]) -> None:
    store.check_image(app, values["image"])
    suffix = uploads.check_spooled(values["label"], uploads.LABELS)
    values["label"].filename = f"label{suffix}"
    store.check_place(app, values["image"], values["tag"], suffix)
    _check_info(values)


def _label(app: Any, values: dict[str, Any]) -> None:
    id = values["label"] if "label" in values else values["image"]  # HEAD calls it so
    store.check_label(app, id, values["tag"])
    _check_info(values)


def _goodbye_image(app: Any, values: dict[str, Any]) -> None:
    store.check_removable(app, values["id"])


def _goodbye_label(app: Any, values: dict[str, Any]) -> None:
    store.check_label(app, values["id"], values["tag"])
    store.check_removable(app, values["id"], values["tag"])


def _session(app: Any, values: dict[str, Any]) -> None:
    id = values["session_id"] = names.check_session(values["session_id"])
    found = app.sessions().get_session(id, update_ts=False) if app.sessions() is not None else None
    if found is not None and values.get("image") and Path(found.image).is_dir():
        raise Refusal(409, "This session holds several files, not one.", "Leave 'image' out to see the session.")


def _model(app: Any, values: dict[str, Any]) -> None:
    _task("model", values["model"], {**app._infers, **app._trainers})


def _task(kind: str, name: str, there: Iterable[str]) -> None:
    names.check(kind, name)
    if name not in there:
        raise missing(f"There is no {kind} '{name}' here.", "GET /info/ lists them.")


def _run(kind: str, method: str, there: Callable[[Any], Iterable[str]]) -> Rule:
    """A background task: its name must be known, its parameters sound, its queue not full."""

    def rule(app: Any, values: dict[str, Any]) -> None:
        if kind in values:
            _task(kind, values[kind], there(app))
        if method == "train" and values.get("run_sync"):
            raise bad("Training isn't done inside the server.", "Leave 'run_sync' out, and ask GET /train/.")
        params = parameters.check_object(values.get("params"), "params")
        parameters.check_request(params)
        if method == "batch_infer":
            store.check_tag_for(values["model"], params.get("label_tag"))
        for held in params.values():  # for all tasks at once, parameters come by task
            if isinstance(held, dict):
                parameters.check_request(held)
        told = background_tasks.get(method, [])
        if sum(task["status"] in ("SUBMITTED", "RUNNING") for task in told) >= MOST_WAITING:
            raise Refusal(429, f"{MOST_WAITING} {method} tasks are waiting or running already.")
        del told[:-MOST_REMEMBERED]

    return rule


def _add_image(app: Any, values: dict[str, Any]) -> dict[str, Any]:
    """As MONAI Label adds it; but what fails leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="perturbox-image-") as scratch:
        info = parameters.parse(values["params"]) | {"user": values["user"].username}
        file = _spooled(values["file"], Path(scratch))
        return {"image": store.add_image(app, values["image"], file, info)}


def _save_label(app: Any, values: dict[str, Any]) -> dict[str, Any]:
    """As MONAI Label saves it; but what fails leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="perturbox-label-") as scratch:
        file, tag = _spooled(values["label"], Path(scratch)), values["tag"] or DefaultLabelTag.FINAL.value
        label = app.datastore().save_label(values["image"], str(file), tag, parameters.parse(values["params"]))
        return {**(app.on_save_label(values["image"], label) or {}), "image": values["image"], "label": label}


def _spooled(upload: Any, folder: Path) -> Path:
    path = folder / upload.filename
    with path.open("xb") as copy:
        shutil.copyfileobj(upload.file, copy, uploads.BLOCK)
    return path


def _without_place(app: Any, answer: Any) -> Any:
    """A DICOM server's image without the path of its copy in this server's home."""
    if isinstance(app.datastore(), DicomServer) and isinstance(answer, dict):
        return {key: value for key, value in answer.items() if key != "path"}
    return answer


OURS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "datastore.api_add_image": _add_image,
    "datastore.api_save_label": _save_label,
}
RULES: dict[str, Rule] = {
    "datastore.api_add_image": _new_image,
    "datastore.api_remove_image": _goodbye_image,
    "datastore.api_check_image": _checked_image,
    "datastore.api_download_image": _image,
    "datastore.api_get_image_info": _image,
    "datastore.api_put_image_info": _image,
    "datastore.api_save_label": _new_label,
    "datastore.api_remove_label": _goodbye_label,
    "datastore.api_check_label": _label,
    "datastore.api_download_label": _label,
    "datastore.api_get_label_info": _label,
    "datastore.api_put_label_info": _label,
    "datastore.api_update_label_info": _label,
    "session.api_get_session": _session,
    "session.api_remove_session": _session,
    "model.api_download_model": _model,
    "model.api_model_info": _model,
    "batch.api_run": _run("model", "batch_infer", lambda app: app._infers),
    "train.api_run": _run("", "train", lambda app: ()),
    "train.api_run_model": _run("model", "train", lambda app: app._trainers),
    "scoring.api_run": _run("", "scoring", lambda app: ()),
    "scoring.api_run_method": _run("method", "scoring", lambda app: app._scoring_methods),
    "activelearning.api_sample": _run("strategy", "activelearning", lambda app: app._strategies),
}


def guarded(app: Any, replaced: set[tuple[str, str]], auth: bool) -> APIRouter:
    """A router with MONAI Label's routes behind their checks, without those `replaced` (method, path)."""
    router = APIRouter()
    limits = CapacityLimiter(AT_ONCE), CapacityLimiter(WHOLE_TASKS_AT_ONCE)
    for section, original in ROUTERS.items():
        if section == "auth" and not auth:
            continue
        for route in original.routes:
            if isinstance(route, APIRoute) and not any((method, route.path) in replaced for method in route.methods):
                endpoint = oidc.telling(route.endpoint) if section == "auth" else route.endpoint
                _add(router, route, _behind(app, f"{section}.{endpoint.__name__}", endpoint, *limits))
    return router


def _add(router: APIRouter, route: APIRoute, endpoint: Callable[..., Any]) -> None:
    router.add_api_route(
        route.path,
        endpoint,
        methods=sorted(route.methods),
        summary=route.summary,
        tags=route.tags,
        responses=route.responses,
        deprecated=route.deprecated,
        include_in_schema=route.include_in_schema,
        response_model=route.response_model,
    )


def _behind(
    app: Any, key: str, endpoint: Callable[..., Any], slow: CapacityLimiter, whole: CapacityLimiter
) -> Callable[..., Any]:
    rule, own, section = RULES.get(key), OURS.get(key), key.partition(".")[0]

    def serve(values: dict[str, Any]) -> Any:
        names.check_all(values)
        for kind in ("image", "id", "label"):
            new = key == "datastore.api_add_image" and not values.get(kind)  # called by its file's name then
            if section == "datastore" and isinstance(values.get(kind), str) and not new:
                values[kind] = store.resolve(app.datastore(), values[kind], kind)
        if rule is not None:
            rule(app, values)
        answer = own(app, values) if own is not None else drive(endpoint(**values))
        answer = _without_place(app, answer) if section == "activelearning" else answer
        return answer if isinstance(answer, Response) else plain(answer)

    async def threaded(**values: Any) -> Any:
        return await anyio.to_thread.run_sync(serve, values, limiter=whole if values.get("run_sync") else slow)

    threaded.__name__ = endpoint.__name__
    threaded.__doc__ = endpoint.__doc__
    threaded.__signature__ = inspect.signature(endpoint)  # type: ignore[attr-defined]
    return threaded


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("This endpoint waits for something, so a thread alone can't run it.")


def is_upstream(route: Any) -> bool:
    """Whether a route of the app, or a router included in it, is MONAI Label's."""
    inner = getattr(getattr(route, "original_router", None), "routes", [route])
    modules = (getattr(getattr(held, "endpoint", None), "__module__", "") for held in inner)
    return any(module.startswith("monailabel.") for module in modules)


def remove(app: FastAPI) -> list[APIRoute]:
    """Take MONAI Label's routes, and FastAPI's page that loads scripts from elsewhere, out of the app; returns the one
    that belongs to no router: the icon."""
    pages = ("/docs", "/docs/oauth2-redirect", "/redoc")
    ours = [route for route in app.router.routes if not is_upstream(route) and getattr(route, "path", "") not in pages]
    single = [route for route in app.router.routes if isinstance(route, APIRoute) and is_upstream(route)]
    app.router.routes[:] = ours
    return [route for route in single if route.path == "/favicon.ico"]


def _check_info(values: dict[str, Any]) -> None:
    for field in ("params", "info"):
        if field in values:
            parameters.check_info(parameters.parse(values[field], field))
