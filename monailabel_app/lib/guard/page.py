"""The API page: every route and its fields, as one plain page that loads nothing from anywhere and runs no script."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse

# Not even a page that is made to hold something else could load or run it.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24;
  background: #fff } summary { cursor: pointer; padding: .3rem 0 } code, pre { font: 13px/1.45 ui-monospace, monospace }
pre { background: #f3f5f7; padding: .7rem; overflow: auto } .method { display: inline-block; width: 4.5rem;
  font-weight: 600 } td, th { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0 }
@media (prefers-color-scheme: dark) { body { background: #15181c; color: #dfe3e8 } pre { background: #20252b } }
"""


def router(app: FastAPI) -> APIRouter:
    """The page at / and /docs."""
    made = APIRouter()

    @made.get("/", include_in_schema=False)
    @made.get("/docs", include_in_schema=False)
    def api_page() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()), headers={"Content-Security-Policy": POLICY})

    return made


def page(schema: Mapping[str, Any]) -> str:
    """The routes of an OpenAPI document, by section."""
    sections: dict[str, list[str]] = {}
    for path, held in schema["paths"].items():
        for method, route in held.items():
            sections.setdefault((route.get("tags") or ["Others"])[0], []).append(_route(method, path, route, schema))
    body = "".join(f"<h2>{escape(name)}</h2>{''.join(routes)}" for name, routes in sections.items())
    title = escape(schema["info"]["title"])
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1><p>Every route of this server; <a href=/openapi.json>openapi.json</a> says the same to "
        f"programs.</p>{body}</html>"
    )


def _route(method: str, path: str, route: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    rows = [
        (entry["name"], entry["in"], "" if entry.get("required") else "optional", entry.get("description", ""))
        for entry in route.get("parameters", [])
    ]
    table = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    body = ""
    for kind, content in route.get("requestBody", {}).get("content", {}).items():
        fields = _resolved(content.get("schema", {}), schema)
        body += f"<p>Body, {escape(kind)}:</p><pre>{escape(json.dumps(fields, indent=1, ensure_ascii=False))}</pre>"
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(told.get('description', ''))}</td></tr>"
        for status, told in route.get("responses", {}).items()
    )
    head = f"<span class=method>{escape(method.upper())}</span> <code>{escape(path)}</code>"
    return (
        f"<details><summary>{head} {escape(route.get('summary', ''))}</summary>"
        f"<table>{table}</table>{body}<table>{answers}</table></details>"
    )


def _resolved(fields: Any, schema: Mapping[str, Any]) -> Any:
    """A schema, or the one that it refers to."""
    reference = fields.get("$ref", "") if isinstance(fields, Mapping) else ""
    return schema.get("components", {}).get("schemas", {}).get(reference.rpartition("/")[2], fields)
