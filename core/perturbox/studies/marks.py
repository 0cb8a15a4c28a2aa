"""Pieces of a study's page as HTML: sections, tables, numbers."""

from collections.abc import Iterable, Sequence
from html import escape

MANY = 40  # rows of a table that are shown at once; the rest is in the Parquet file
Rows = Iterable[Sequence[str]]


def section(title: str, content: str, id: str) -> str:
    """A part of the page under its heading; nothing where there is no content."""
    return f'<section id="{id}"><h2>{escape(title)}</h2>{content}</section>' if content else ""


def table(head: Sequence[str], rows: Rows, caption: str = "", most: int = MANY) -> str:
    """A table of which at most so many rows are shown; a cell that begins with a link stays one."""
    listed_rows = list(rows)
    body = "".join(f"<tr>{''.join(_cell(text) for text in row)}</tr>" for row in listed_rows[:most])
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    more = f"<p class=sub>{len(listed_rows) - most} more in results.parquet.</p>" if len(listed_rows) > most else ""
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    inside = f"<table>{title}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{inside}</div>{more}'


def _cell(text: str) -> str:
    return f"<td>{text if text.startswith('<a ') else escape(text)}</td>"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits, a dash for none."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"
