"""Two charts as SVG, drawn here so that they print and need no script: Dice per slice, and the attack's progress."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from perturbox.report import colours
from perturbox.report.findings import WORST

MANY = 12  # structures: of more only the worst are drawn in colour
TOP, HEIGHT, FOOT = 12, 150, 40


@dataclass(frozen=True)
class Frame:
    """The plot area of a chart whose y axis runs from Dice 0 to 1."""

    width: int = 1000
    left: int = 46

    @property
    def right(self) -> int:
        return self.width - 14

    @property
    def box(self) -> str:
        return f"0 0 {self.width} {TOP + HEIGHT + FOOT}"

    def x(self, share: float) -> float:
        return self.left + share * (self.right - self.left)

    def grid(self) -> str:
        rows = []
        for k in range(5):
            y = height(1 - k / 4)
            rows.append(f'<line class="grid" x1="{self.left}" x2="{self.right}" y1="{y}" y2="{y}"/>')
            rows.append(f'<text x="{self.left - 7}" y="{y + 4}" text-anchor="end">{1 - k / 4:.2f}</text>')
        return "".join(rows)

    def tick(self, share: float, label: str) -> str:
        return f'<text x="{self.x(share):.1f}" y="{TOP + HEIGHT + 17}" text-anchor="middle">{label}</text>'

    def below(self, share: float, anchor: str, label: str) -> str:
        return (
            f'<text class="quiet" x="{self.x(share):.1f}" y="{TOP + HEIGHT + 34}" text-anchor="{anchor}">'
            f"{escape(label)}</text>"
        )


def height(dice: float) -> float:
    return TOP + (1 - dice) * HEIGHT


def slice_chart(
    plane: str,
    order: np.ndarray,
    dice: np.ndarray,
    differ: np.ndarray,
    names: Sequence[tuple[int, str]],
    ends: tuple[str, str],
    unit: str,
) -> str:
    """Dice lines "slice structure" and bars of what differs (ml).

    order: file slices in display order; names: (number, title) of the structures drawn; ends: anatomical letters of
    both ends. The viewer reads the geometry from data attributes.
    """
    frame = Frame()
    first, last = int(order[0]), int(order[-1])
    span = max(abs(last - first), 1)
    x = np.array([frame.x(s) for s in np.abs(order - first) / span])
    parts = [frame.grid(), _bars(x, differ, 0.8 * (frame.right - frame.left) / max(len(order), 2))]
    for n, title in reversed(names):  # the worst on top
        told = (n, title) in names[:WORST] if len(names) > MANY else True
        parts.append(_line(n, title, _path(x, dice[:, n - 1]), told))
    parts += [
        frame.tick(abs(t - first) / span, str(t + 1)) for t in _ticks(min(first, last), max(first, last), base=-1)
    ]
    tallest = f" (tallest {_short(differ.max())} {unit})" if differ.max(initial=0) > 0 else ""
    caption = f"{plane} slice – lines: Dice after against before; grey bars: what differs{tallest}"
    if ends[0]:
        parts += [frame.below(0, "start", f"◂ {ends[0]}"), frame.below(1, "end", f"{ends[1]} ▸")]
    parts.append(frame.below(0.5, "middle", caption))
    parts.append(f'<line class="cursor" x1="-9" x2="-9" y1="{TOP - 6}" y2="{TOP + HEIGHT}"/>')
    data = f'data-first="{first}" data-last="{last}" data-left="{frame.left}" data-right="{frame.right}"'
    return (
        f'<svg class="chart slices" viewBox="{frame.box}" role="img" aria-label="{escape(caption)}" {data}>'
        f"{''.join(parts)}</svg>"
    )


def trace_chart(trace: Sequence[dict[str, Any]], names: Sequence[tuple[int, str, str]], limit: float) -> str:
    """Dice of each target per attack step, restarts one after another; a dashed line at the limit.

    names: (number, key, title).
    """
    frame = Frame(width=560)
    last = len(trace) - 1
    x = np.array([frame.x(k / max(last, 1)) for k in range(len(trace))])
    y = height(limit)
    parts = [frame.grid(), f'<line class="limit" x1="{frame.left}" x2="{frame.right}" y1="{y}" y2="{y}"/>']
    starts = [k for k in range(1, len(trace)) if trace[k].get("restart") != trace[k - 1].get("restart")]
    parts += [f'<line class="grid" x1="{x[k]:.1f}" x2="{x[k]:.1f}" y1="{TOP}" y2="{height(0)}"/>' for k in starts]
    for n, key, title in names:
        values = np.array(
            [np.nan if v is None else v for v in ((row.get("dice") or {}).get(key) for row in trace)], float
        )
        values = np.insert(values, starts, np.nan)  # a gap, not a line, from one start to the next
        parts.append(_line(n, title, _path(np.insert(x, starts, x[starts]), values)))
    parts += [frame.tick(k / max(last, 1), str(trace[k]["step"])) for k in _ticks(0, last, base=0)]
    joined = f"; {len(starts) + 1} runs" if starts else ""
    caption = f"step – lines: live Dice; dashed: limit {limit:.2f}{joined}"
    parts.append(frame.below(0.5, "middle", caption))
    return (
        f'<svg class="chart trace" viewBox="{frame.box}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg>"
    )


Points = Sequence[tuple[float, float]]


def margin_chart(
    structures: Sequence[tuple[int, str, Points, Points, tuple[float, float] | None]],
    most: float,
    sigma: float | None,
    limit: float,
    unit: str,
) -> str:
    """Dice against the size of the change, on an axis of doublings up to `most`.

    structures: (number, title, found, noise, break) of each, the first broken first; points are (size, Dice), of noise
    in thin dashes.
    """
    frame = Frame()
    sizes = [size for _, _, found, noise, _ in structures for size, _ in (*found, *noise)]
    low = np.log2(min(sizes, default=most / 2))
    high = max(float(np.log2(max([*sizes, most]))), low + 1)

    def share(size: float) -> float:
        return float((np.log2(size) - low) / (high - low))

    y = height(limit)
    parts = [frame.grid(), f'<line class="limit" x1="{frame.left}" x2="{frame.right}" y1="{y}" y2="{y}"/>']
    if sigma and 0 <= share(sigma) <= 1:
        x = frame.x(share(sigma))
        parts.append(f'<line class="sigma" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" y2="{height(0)}"/>')
        parts.append(f'<text class="quiet" x="{x + 4:.1f}" y="{height(0.03):.1f}">1 σ</text>')
    for place, (n, title, found, noise, broke) in reversed(list(enumerate(structures))):  # the first on top
        told = place < WORST or len(structures) <= MANY
        x, values = (np.array([point[k] for point in noise], float) for k in (0, 1))
        across = np.array([frame.x(share(size)) for size in x])
        if told:
            parts.append(
                f'<path class="line noise s{n}" data-structure="{n}" d="{_path(across, values)}">'
                f"<title>{escape(title)}: random noise</title></path>"
            )
        across = np.array([frame.x(share(size)) for size, _ in found])
        parts.append(_line(n, title, _path(across, np.array([dice for _, dice in found], float)), told))
        if broke is not None:
            about = f"{title}: Dice {broke[1]:.3f} at {broke[0]:g} {unit}"
            parts.append(
                f'<circle class="dot s{n}" data-structure="{n}" cx="{frame.x(share(broke[0])):.1f}" '
                f'cy="{height(broke[1]):.1f}" r="5"><title>{escape(about)}</title></circle>'
            )
    first = int(np.ceil(low - 1e-9))
    parts += [frame.tick(share(2.0**k), f"{2.0**k:g}") for k in range(first, int(np.floor(high + 1e-9)) + 1)]
    lines = "lines: lowest Dice found within it; thin: white noise of the same RMS"
    caption = f"largest change, {unit} – {lines}; dashed: limit {limit:.2f}"
    parts.append(frame.below(0.5, "middle", caption))
    return (
        f'<svg class="chart margin" viewBox="{frame.box}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg>"
    )


def swatch(n: int) -> str:
    """A structure's colour and line style, for legends."""
    return (
        f'<svg class="swatch" viewBox="0 0 34 10" aria-hidden="true"><path class="line s{n}" d="M1 5H33" '
        f'stroke-dasharray="{colours.dash(n)}"/></svg>'
    )


def square(n: int) -> str:
    """A structure's colour, for tables."""
    return (
        f'<svg class="square s{n}" viewBox="0 0 12 12" aria-hidden="true"><rect width="12" height="12" rx="3"/></svg>'
    )


def noise_bar(sigmas: float, full: float, open_end: bool, width: int = 100) -> str:
    """A bound in multiples of the scan's noise, the longest bar of its table being `full` of them; the tick is 1 σ.
    Dashed when nothing broke up to there."""
    tick = width / full
    return (
        f'<svg class="noise-bar" viewBox="0 0 {width + 4} 14" aria-hidden="true">'
        f'<rect class="{"open" if open_end else "found"}" x="1" y="3" width="{sigmas / full * width:.1f}" height="8"/>'
        f'<line x1="{tick + 1:.1f}" x2="{tick + 1:.1f}" y1="0" y2="14"/></svg>'
    )


def _bars(x: np.ndarray, differ: np.ndarray, width: float) -> str:
    top, width = float(differ.max(initial=0)), min(12.0, width)
    bars = []
    for at, value in zip(x, differ, strict=True):
        if value > 0.005 * top:
            y = height(0.5 * value / top)
            place = f'x="{at - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height(0) - y:.1f}"'
            bars.append(f'<rect class="amount" {place}/>')
    return "".join(bars)


def _line(n: int, title: str, path: str, told: bool = True) -> str:
    kind = f"line s{n}" if told else f"line s{n} rest"
    return (
        f'<path class="{kind}" data-structure="{n}" stroke-dasharray="{colours.dash(n)}" d="{path}">'
        f"<title>{escape(title)}</title></path>"
    )


def _path(x: np.ndarray, values: np.ndarray) -> str:
    """Line through the points; gaps where there is no value, a short dash where a value stands alone."""
    steps, pen = [], False
    for k, (at, value) in enumerate(zip(x, values, strict=True)):
        if np.isnan(value):
            pen = False
            continue
        alone = not pen and (k + 1 == len(values) or np.isnan(values[k + 1]))
        steps.append(f"{'L' if pen else 'M'}{at:.1f} {height(float(value)):.1f}" + ("h2" if alone else ""))
        pen = True
    return "".join(steps)


def _ticks(low: int, high: int, base: int) -> list[int]:
    """Both ends and about eight round numbers between; base -1 makes 0-based slices round in their 1-based names."""
    raw = max(high - low, 1) / 8
    power = 10 ** max(int(np.floor(np.log10(raw))), 0)
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - raw))
    inner = [t for t in range(low - low % step + base, high, step) if t - low > step / 2 and high - t > step / 2]
    return [low, *inner, high] if high > low else [low]


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
