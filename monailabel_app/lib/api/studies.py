"""Studies that the operator shows: progress, table and page of each, read from its folder and never written."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi import Path as InPath
from fastapi.responses import HTMLResponse, JSONResponse

from lib.api import answers
from lib.options import refuse
from perturbox.jobs import Problem, Refused
from perturbox.types import InputError

if TYPE_CHECKING:
    from perturbox.studies.watch import Look, Shelf

PAGE, MOST_ROWS = 100, 1000
Name = Annotated[str, InPath(description="Name of a study, as the list tells it.", max_length=200)]
Offset = Annotated[int, Query(ge=0, le=10**9, description="Leave out so many of the first.")]
# A page that was put there by somebody else can load nothing, run nothing and send nothing either.
SHOWN = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Cache-Control": "private, no-cache",
}


def shelf(folder: Path | None) -> "Shelf | None":
    """The studies in a folder; ends the process, with a sentence, where they can't be shown."""
    if folder is None:
        return None
    try:
        from perturbox.studies.watch import Shelf
    except ImportError as error:
        missing = f"study_results needs the extra 'study' ({error.name} is missing)"
        refuse(InputError(f"{missing}; run `pip install 'perturbox[study]'`."))
    return Shelf(folder)


def add(
    routes: APIRouter, shelf: "Shelf | None", in_thread: Callable[..., Any], refusals: Callable[..., dict[Any, Any]]
) -> None:
    """Add the routes of studies."""

    def known(name: str) -> "Shelf":
        if shelf is None or name not in shelf.names():
            detail = f"This server shows no study '{name[:80]}'."
            raise Refused(404, Problem("no-such-study", detail, f"GET {answers.PREFIX}/studies lists them."))
        return shelf

    @routes.get(
        "/studies",
        summary="Studies that the operator shows, and how far they are",
        response_model=answers.Studies,
        responses=refusals(),
    )
    async def studies(
        offset: Offset = 0, limit: Annotated[int, Query(ge=1, le=PAGE, description="At most so many.")] = PAGE
    ) -> JSONResponse:
        return JSONResponse(await in_thread(listed, offset, limit))

    def listed(offset: int, limit: int) -> dict[str, Any]:
        names = [] if shelf is None else shelf.names()
        looks = [status(shelf.look(name)) for name in names[offset : offset + limit]] if shelf else []
        return {"studies": looks, **paged(len(names), offset, limit)}

    @routes.get(
        "/studies/{name}",
        summary="One study: progress, verdict, rows of its table",
        response_model=answers.StudyTable,
        responses=refusals(404),
    )
    async def study(
        name: Name,
        offset: Offset = 0,
        limit: Annotated[int, Query(ge=0, le=MOST_ROWS, description="At most so many rows.")] = PAGE,
    ) -> JSONResponse:
        return JSONResponse(await in_thread(table, name, offset, limit))

    def table(name: str, offset: int, limit: int) -> dict[str, Any]:
        from perturbox.studies.tables import columns_of

        found = known(name)
        look = status(found.look(name))
        rows = []
        if look["state"] != "unreadable":
            try:
                rows = found.rows(name)
            except InputError as error:
                look |= {"state": "unreadable", "problem": str(error)}
        meanings = {column: meaning for column, (_, meaning) in columns_of(look["kind"]).items() if meaning}
        return {**look, "columns": meanings, "rows": rows[offset : offset + limit], **paged(len(rows), offset, limit)}

    @routes.get(
        "/studies/{name}/report.html",
        summary="The page of a study that is done",
        response_class=Response,
        responses={200: {"content": {"text/html": {}}, "description": "The page."}, **refusals(404)},
    )
    async def report(name: Name) -> Response:
        page = await in_thread(lambda: known(name).report(name))
        if page is None:
            detail = f"The study '{name[:80]}' has no page yet."
            raise Refused(404, Problem("no-page-yet", detail, "Wait until its state is done."))
        return HTMLResponse(page, headers=SHOWN)


def paged(total: int, offset: int, limit: int) -> dict[str, Any]:
    return {"total": total, "next": offset + limit if limit and offset + limit < total else None}


def status(look: "Look") -> dict[str, Any]:
    place = f"{answers.PREFIX}/studies/{look.name}"
    links = {"self": place, "report": f"{place}/report.html"} if look.report else {"self": place}
    told = {key: value for key, value in vars(look).items() if key != "report"}
    changed = answers.moment(look.changed)
    return {**told, "models": list(look.models), "verdict": list(look.verdict), "changed": changed, "links": links}
