"""What every page has: its head, with a policy that admits nothing but what is inside it, notice, title and footer."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from perturbox.report import colours
from perturbox.report.encode import text
from perturbox.types import ADVERSARIAL_NOTICE

RESEARCH = "research use only, not for diagnosis"
NOTICE = f"{ADVERSARIAL_NOTICE} · {RESEARCH}"


def resource(name: str) -> str:
    return files("perturbox.report").joinpath("resources", name).read_text(encoding="utf-8")


def fill(name: str, **parts: str) -> str:
    """A template with its parts, which are HTML already."""
    return Template(resource(name)).substitute(parts)


def page(
    body: str,
    *,
    title: str,
    subtitle: str,
    footer: str,
    structures: int,
    scripts: tuple[str, ...] = (),
    meta: Any = None,
    streams: Mapping[str, bytes] | None = None,
    local: bool = False,
    notice: str = NOTICE,
) -> str:
    """A whole page around its body. title, subtitle, footer: plain texts; structures: how many have a colour; scripts:
    names of resources, run one after another; meta: JSON for them, in #meta; streams: packed bytes, in #data-NAME;
    local: whether scripts beside the page may be loaded; notice: the line above the title."""
    style = resource("style.css") + colours.style_rules(structures)
    script = "".join(resource(f"{name}.js") for name in scripts)
    data = ""
    if meta is not None:
        told = json.dumps(meta, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
        data = f'<script type="application/json" id="meta">{told}</script>\n'
    for name, stream in (streams or {}).items():
        data += f'<script type="text/plain" id="data-{name}">{text(stream)}</script>\n'
    return fill(
        "frame.html",
        title=escape(title),
        notice=escape(notice),
        style=style,
        style_hash=content_hash(style),
        script=f"<script>{script}</script>" if script else "",
        script_hash=content_hash(script),
        local=" 'self' file:" if local else "",
        subtitle=escape(subtitle),
        body=body,
        footer=escape(footer),
        data=data,
    )


def rich(sentence: str) -> str:
    """Escape a text; `*bold*` becomes bold."""
    return re.sub(r"\*(.+?)\*", r"<b>\1</b>", escape(sentence))


def folded(caveats: Sequence[str]) -> str:
    """What limits a page's meaning, folded to one line with a count."""
    if not caveats:
        return ""
    count = f"{len(caveats)} note{'s' if len(caveats) > 1 else ''} on what this doesn’t show"
    items = "".join(f"<li>{rich(c)}</li>" for c in caveats)
    return f'<details class="warn"><summary>{count}</summary><ul class="caveats">{items}</ul></details>'


def content_hash(content: str) -> str:
    """A Content-Security-Policy source that admits exactly this inline content."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
