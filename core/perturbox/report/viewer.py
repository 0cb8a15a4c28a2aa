"""Parts of the pages' viewers that are HTML from the start: the colour key and the planes' buttons."""

from collections.abc import Sequence
from html import escape

from perturbox.report import charts
from perturbox.report.charts import MANY
from perturbox.report.findings import WORST
from perturbox.report.story import Story

# Columns, rows and the rows' direction of axial, coronal and sagittal slices, in display axes.
DRAWN_ALONG = ((2, 1, 1), (2, 0, -1), (1, 0, -1))


def colour_key(structures: Sequence[tuple[int, str]]) -> str:
    """The colours of structures (number, title) as the picture fills them; a click isolates one. Of many the worst,
    which come first, the rest folded."""
    keys = [
        f'<button type="button" data-structure="{n}" aria-pressed="false">{charts.square(n)}{escape(title)}</button>'
        for n, title in structures
    ]
    drawn = len(keys) if len(keys) <= MANY else WORST
    rest = keys[drawn:]
    more = f"<details><summary>{len(rest)} more</summary><div>{''.join(rest)}</div></details>" if rest else ""
    about = 'role="group" aria-label="Structures: choose one to isolate it"'
    return f'<div id="key" {about}>{"".join(keys[:drawn])}{more}</div>'


def plane_buttons(story: Story, opening: int) -> str:
    """Of a volume; opening: the display axis that is shown first."""
    if len(story.planes) == 1:
        return ""
    return "".join(
        f'<button type="button" data-plane="{p.axis}" aria-pressed="{"true" if p.axis == opening else "false"}">'
        f"{p.name.capitalize()}</button>"
        for p in story.planes
    )
