"""What became what, as a picture and a table: left what voxels were called before, right what they are called now."""

from collections import defaultdict
from collections.abc import Mapping
from html import escape

from perturbox.judge import summary
from perturbox.judge.verdicts import BACKGROUND
from perturbox.report.findings import readable
from perturbox.report.story import Story

DRAWN = 12  # flows by themselves; the rest is one band
OTHERS = "others"
WIDTH, LEFT, RIGHT, BAR, HEIGHT, GAP = 760, 190, 570, 10, 300, 7
LINE = 17  # height of a line of text: names of thin bars don't run into each other

Row = tuple[str, str, float]


def section(story: Story) -> str:
    """The picture with its table; a sentence where no label changed."""
    rows = [(row["from"], row["to"], row["ml"]) for row in story.result.record["flow"] or []]
    if not rows:
        return "<p>Nothing has another label after the attack.</p>"
    numbers = {f.name: f.number for f in story.findings}
    return f'<div class="two flow"><div>{diagram(rows, numbers, story)}</div><div>{flow_table(rows, story)}</div></div>'


def diagram(rows: list[Row], numbers: Mapping[str, int], story: Story) -> str:
    """Bands from before to after, as wide as the amount that changed its label, in the colour of what it was; what is
    new, in the colour of what it is now. One by one those that the headline tells and the largest; the rest is one
    band. Beside a structure stands all that it lost, or that is newly called so."""
    bands = _told_first(rows, story)[:DRAWN]
    if rest := sum(ml for *_, ml in rows) - sum(ml for *_, ml in bands):
        bands = [*bands, (OTHERS, OTHERS, rest)]
    wholes = [_totals(rows, end) | {OTHERS: rest} for end in (0, 1)]
    sides = [_totals(bands, end) for end in (0, 1)]
    scale = min((HEIGHT - GAP * (len(side) - 1)) / sum(side.values()) for side in sides)
    tops = [_tops(side, scale) for side in sides]
    nodes = "".join(
        _node(name, ml * scale, tops[end][name], end, numbers, summary.sized(story.result.record, wholes[end][name]))
        for end, side in enumerate(sides)
        for name, ml in side.items()
    )
    used: tuple[dict, dict] = (defaultdict(float), defaultdict(float))
    order = {name: k for k, name in enumerate(sides[1])}
    paths = []
    for old, new, ml in sorted(bands, key=lambda band: order[band[1]]):
        wide = ml * scale
        a, b = tops[0][old] + used[0][old], tops[1][new] + used[1][new]
        used[0][old] += wide
        used[1][new] += wide
        about = f"{called(old)} → {called(new)}: {summary.sized(story.result.record, ml)}"
        paths.append(_band(a, b, wide, numbers.get(old) or numbers.get(new), about))
    high = max(max(y + sides[end][name] * scale, y + LINE) for end, top in enumerate(tops) for name, y in top.items())
    return (
        f'<svg class="chart flows" viewBox="0 0 {WIDTH} {high + 6:.0f}" role="img" '
        f'aria-label="What became what; the table beside it holds the same">'
        f'<text class="quiet" x="{LEFT}" y="12" text-anchor="end">before</text>'
        f'<text class="quiet" x="{RIGHT}" y="12">after</text>{"".join(paths)}{nodes}</svg>'
    )


def flow_table(rows: list[Row], story: Story) -> str:
    """Every flow, the largest first; those the picture draws as one band folded."""
    sizes = story.result.record["source"]["sizes"]

    def body(some: list[Row]) -> str:
        cells = (
            f'<tr><th scope="row">{escape(called(old))}</th><td>{escape(called(new))}</td>'
            f"<td>{summary.size(ml, sizes)}</td></tr>"
            for old, new, ml in some
        )
        head = f'<th scope="col">Before</th><th scope="col">Called now</th><th scope="col">{sizes}</th>'
        return (
            f'<div class="table" tabindex="0"><table class="words"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(cells)}</tbody></table></div>"
        )

    rest = rows[DRAWN:]
    more = f"<details><summary>{len(rest)} smaller ones</summary>{body(rest)}</details>" if rest else ""
    return body(rows[:DRAWN]) + more


def called(name: str) -> str:
    """A structure, or what is none, as a reader calls it."""
    return "Others" if name == OTHERS else "Nothing" if name == BACKGROUND else readable(name)


def _totals(bands: list[Row], end: int) -> dict[str, float]:
    """Largest first; nothing, and the rest, last."""
    found: dict[str, float] = defaultdict(float)
    for band in bands:
        found[str(band[end])] += band[2]
    last = {BACKGROUND: 1, OTHERS: 2}
    return dict(sorted(found.items(), key=lambda item: (last.get(item[0], 0), -item[1])))


def _tops(side: Mapping[str, float], scale: float) -> dict[str, float]:
    found, y = {}, 20.0
    for name, ml in side.items():
        found[name] = y
        y += max(ml * scale + GAP, LINE)
    return found


def _told_first(rows: list[Row], story: Story) -> list[Row]:
    """What the headline tells of its structure, then the rest; each the largest first."""
    name = story.subject.name if story.subject else None
    whole = [sum(row[2] for row in rows if row[end] == name) for end in (0, 1)]
    told = [row for row in rows if any(row[end] == name and row[2] > summary.TOLD * whole[end] for end in (0, 1))]
    return told + [row for row in rows if row not in told]


def _node(name: str, high: float, top: float, end: int, numbers: Mapping[str, int], amount: str) -> str:
    x = RIGHT - BAR if end else LEFT
    at, anchor = (RIGHT + 7, "start") if end else (LEFT - 7, "end")
    colour = f" s{numbers[name]}" if name in numbers else ""
    told = escape(f"{called(name)} {amount}")
    return (
        f'<rect class="node{colour}" x="{x}" y="{top:.1f}" width="{BAR}" height="{max(high, 1):.1f}"/>'
        f'<text x="{at}" y="{top + high / 2 + 4:.1f}" text-anchor="{anchor}">{told}</text>'
    )


def _band(a: float, b: float, wide: float, number: int | None, about: str) -> str:
    left, right = LEFT + BAR, RIGHT - BAR
    middle = (left + right) / 2
    path = (
        f"M{left} {a:.1f}C{middle} {a:.1f} {middle} {b:.1f} {right} {b:.1f}"
        f"V{b + wide:.1f}C{middle} {b + wide:.1f} {middle} {a + wide:.1f} {left} {a + wide:.1f}Z"
    )
    return f'<path class="band{f" s{number}" if number else ""}" d="{path}"><title>{escape(about)}</title></path>'
