"""Two charts as SVG, drawn here so that they print and need no script: Dice per slice, and the attack's progress."""

from collections.abc import Sequence
from html import escape

import numpy as np

from perturbox.report import colours

LEFT, RIGHT, TOP, HEIGHT, WIDTH = 46, 986, 12, 150, 1000


def slice_chart(
    plane: str, numbers: np.ndarray, dice: np.ndarray, differ_ml: np.ndarray, names: Sequence[tuple[int, str]],
    ends: tuple[str, str], unit: str,
) -> str:  # fmt: skip
    """Dice lines "slice structure" and bars of what differs, over file slice numbers in display order.

    names: (number, title) of the structures drawn. The viewer finds its geometry in data attributes.
    """
    first, last = int(numbers[0]), int(numbers[-1])
    span = max(abs(last - first), 1)
    x = LEFT + np.abs(numbers - first) / span * (RIGHT - LEFT)
    top = float(differ_ml.max(initial=0))
    width = min(12.0, 0.8 * (RIGHT - LEFT) / max(len(numbers), 2))
    parts = [_grid()]
    for position, value in zip(x, differ_ml, strict=True):
        if value > 0.005 * top:
            tall = value / top * HEIGHT * 0.5
            parts.append(
                f'<rect class="bar-ml" x="{position - width / 2:.1f}" y="{TOP + HEIGHT - tall:.1f}" width="{width:.1f}" '
                f'height="{tall:.1f}"/>'
            )
    for n, title in names:
        parts.append(
            f'<path class="line s{n}" data-structure="{n}" stroke-dasharray="{colours.dash(n)}" '
            f'd="{_path(x, dice[:, n - 1])}"><title>{escape(title)}</title></path>'
        )
    for tick in _ticks(min(first, last), max(first, last)):
        at = LEFT + abs(tick - first) / span * (RIGHT - LEFT)
        parts.append(f'<text x="{at:.1f}" y="{TOP + HEIGHT + 17}" text-anchor="middle">{tick + 1}</text>')
    caption = f"{plane} slice: lines are Dice before against after; grey bars, what differs"
    if top > 0:
        parts.append(
            f'<text class="quiet" x="{RIGHT}" y="{TOP + HEIGHT / 2 - 5}" text-anchor="end">tallest bar {_short(top)} {unit}</text>'
        )
    if ends[0]:
        parts.append(f'<text class="quiet" x="{LEFT}" y="{TOP + HEIGHT + 34}">◂ {ends[0]}</text>')
        parts.append(f'<text class="quiet" x="{RIGHT}" y="{TOP + HEIGHT + 34}" text-anchor="end">{ends[1]} ▸</text>')
    parts.append(
        f'<text class="quiet" x="{(LEFT + RIGHT) / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">{caption}</text>'
    )
    parts.append(f'<line class="cursor" x1="-9" x2="-9" y1="{TOP - 6}" y2="{TOP + HEIGHT}"/>')
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {TOP + HEIGHT + 40}" role="img" aria-label="{escape(caption)}" '
        f'data-first="{first}" data-last="{last}" data-left="{LEFT}" data-right="{RIGHT}">{"".join(parts)}</svg>'
    )


def trace_chart(trace: Sequence[dict], names: Sequence[tuple[int, str, str]], limit: float) -> str:
    """Dice of each target per attack step, with a dashed line at the limit; names: (number, key, title)."""
    steps = [row["step"] for row in trace]
    span = max(steps[-1] - steps[0], 1)
    x = np.array([LEFT + (s - steps[0]) / span * (RIGHT - LEFT) for s in steps])
    parts = [_grid()]
    y = TOP + (1 - limit) * HEIGHT
    parts.append(f'<line class="limit" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
    for n, key, title in names:
        values = np.array([_float((row.get("dice") or {}).get(key)) for row in trace])
        parts.append(
            f'<path class="line s{n}" stroke-dasharray="{colours.dash(n)}" d="{_path(x, values)}">'
            f"<title>{escape(title)}</title></path>"
        )
    for tick in _ticks(steps[0], steps[-1], base=0):
        at = LEFT + (tick - steps[0]) / span * (RIGHT - LEFT)
        parts.append(f'<text x="{at:.1f}" y="{TOP + HEIGHT + 17}" text-anchor="middle">{tick}</text>')
    caption = "attack step; lines are the Dice seen by the attack; dashed line: limit 0.90"
    parts.append(
        f'<text class="quiet" x="{(LEFT + RIGHT) / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle">{caption}</text>'
    )
    return (
        f'<svg class="chart trace" viewBox="0 0 {WIDTH} {TOP + HEIGHT + 40}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(parts)}</svg>"
    )


def swatch(n: int) -> str:
    """A structure's colour and line style, for legends."""
    return (
        f'<svg class="swatch s{n}" viewBox="0 0 34 10" aria-hidden="true"><path class="line s{n}" d="M1 5H33" '
        f'stroke-dasharray="{colours.dash(n)}"/></svg>'
    )


def noise_bar(sigmas: float, open_end: bool, width: int = 100) -> str:
    """A breaking point in multiples of the scan's noise; the tick is 1 σ. Dashed when nothing broke up to there."""
    full = max(1.0, sigmas)
    length = sigmas / full * width
    tick = width / full
    kind = "open" if open_end else "found"
    return (
        f'<svg class="noise-bar" viewBox="0 0 {width + 4} 14" aria-hidden="true"><rect class="{kind}" x="1" y="3" '
        f'width="{length:.1f}" height="8"/><line x1="{tick + 1:.1f}" x2="{tick + 1:.1f}" y1="0" y2="14"/></svg>'
    )


def _grid() -> str:
    rows = []
    for k in range(5):
        y = TOP + k * HEIGHT / 4
        rows.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        rows.append(f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{1 - k / 4:.2f}</text>')
    return "".join(rows)


def _path(x: np.ndarray, values: np.ndarray) -> str:
    """Line through the points; gaps where there is no value, a short dash where a value stands alone."""
    d, pen = [], False
    for k, (at, value) in enumerate(zip(x, values, strict=True)):
        if np.isnan(value):
            pen = False
            continue
        y = TOP + (1 - float(value)) * HEIGHT
        lonely = not pen and (k + 1 == len(values) or np.isnan(values[k + 1]))
        d.append(f"{'L' if pen else 'M'}{at:.1f} {y:.1f}" + ("h2" if lonely else ""))
        pen = True
    return "".join(d)


def _ticks(low: int, high: int, base: int = -1) -> list[int]:
    """About eight round numbers, shifted by `base` so that 0-based slices show round 1-based numbers."""
    span = max(high - low, 1)
    raw = span / 8
    power = 10 ** int(np.floor(np.log10(raw))) if raw >= 1 else 1
    step = max(1, int(power * min((1, 2, 5, 10), key=lambda m: abs(m * power - raw))))
    inner = [t for t in range(low - low % step + base, high + 1, step) if low < t < high]
    inner = [t for t in inner if t - low > step / 2 and high - t > step / 2]
    return [low, *inner, high] if high > low else [low]


def _float(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
